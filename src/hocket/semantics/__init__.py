"""A request's text -> how urgent it is. Local models, no network.

`encoder` turns texts into vectors. Its libraries come with the extra `words` and are imported only when an encoder is
made, so that a plain install of hocket neither has nor needs them.
"""
