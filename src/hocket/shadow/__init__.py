"""What another policy would have done: recorded jobs in the simulator, as they were ordered and as they could be.

`source` takes jobs from a history or a journal, `estimate` makes the engines' constants out of the recorded calls, and
`report` simulates and compares. It runs when it is asked for, never while a call is served.
"""
