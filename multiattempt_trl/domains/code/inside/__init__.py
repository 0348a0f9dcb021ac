"""What runs inside a sandbox: the program on trial, and the judge that runs the tests and calls it.

The two are processes in sandboxes of their own, with a pair of pipes between them. The judge alone has the tests. It
sends the program's text, then one line of JSON for each call that a test makes, and gets what the function returned,
as plain data. Whatever the program does to its own process, all that reaches the judge is data, which the judge
compares. These files import the standard library and each other: they are all of this package that a sandbox
has.
"""
