"""A catalogue and its users that do not exist, behind the real API's manners.

Belongs here: the sample world and the HTTP server over it. Does not belong here: anything a production path imports.
"""
