"""The history: every job, call and tool run on disk, in SQLite or PostgreSQL. No text of prompts or answers.

`records` says what is kept and makes it of events; `recorder` is the gateway's observer, `writer` its thread, `store`
the database, `schema` and `migrations` its tables; `read` answers the command line, `traces` turns jobs into a trace.
"""
