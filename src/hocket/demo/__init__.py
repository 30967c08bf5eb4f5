"""`hocket demo`: three compound applications on two small engines, under one policy and then under another.

mix.py      which jobs: frozen, because policies are judged on it
apps.py     the applications, as anyone would write them with the openai package and hocket.client
run.py      one job at work: its calls, its tool runs, and the trace of what happened
tools.py    what the applications' tools do: search the project's documents, run tests in a subprocess
passes.py   one pass: a gateway process with two embedded engines, fresh each time
show.py     progress bars, the table at the end
"""
