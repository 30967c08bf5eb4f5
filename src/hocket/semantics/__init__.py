"""A request's text -> how urgent it is. Local models, no network.

`encoder` turns texts into vectors. The default needs numpy alone; the packages of the stronger one come with the extra
`words`. Either is imported only when an encoder is made.
"""
