"""Other tools' names over this package, for code that was written for them; docs/migration.md has one table for each.

`crfrnn.compat.pydensecrf`, `crfrnn.compat.simplecrf` and `crfrnn.compat.bilateral_solver` need only the base install,
`crfrnn.compat.monai` and `crfrnn.compat.pamr` the torch extra, `crfrnn.compat.crfasrnn` the models extra. None needs
the tool itself. docs/compatibility.md tells what was tried.
"""
