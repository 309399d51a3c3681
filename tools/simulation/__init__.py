"""The whole system in one process and in virtual time, with every fault drawn from one seed.

`World(seed).run()` builds stations, a database in memory and one or two nodes that are made of the program's own parts
(connection, intake, core, settling, prepaid), lets them talk through sockets that fail, and then asks a checker with
books of its own whether anything was lost, doubled or priced wrongly. The same seed always gives the same run.
"""
