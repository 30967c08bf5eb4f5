"""Beliefs: what recorded jobs of an application tell about the rest of a job that is under way.

`record` is what is kept of a job, `profile` the file that `hocket learn` writes, `samples` the recorded jobs as
matrices, `belief` the weights that a job's evidence gives them, and `tracker` what the core talks to.
"""
