"""Beliefs: what recorded jobs of an application tell about the rest of a job that is under way.

`record` is what is kept of a job, `profile` the file that `hocket learn` writes, `samples` the recorded jobs as
matrices, `belief` the weights that a job's evidence gives them, `lesson` the records that are believed in for now, and
`tracker` what the core talks to. `graph`, `network`, `inference`, `information` and `posterior` are the application's
graph and its Bayesian network: learned, asked, and asked about one job.
"""
