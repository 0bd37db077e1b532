"""Every published form of Inception V3, a file each, on the names of the architecture table.

Each module has the same names:

    NAME                     what `--to` and `save(format=...)` call it
    recognise(path) -> bool  by content; False for anything else, never an error
    read(path) -> Weights    raises InputError, one line with the file and the variable

and those that are written too:

    write(model, path)       atomically
    differences(model)       why the program that the format belongs to would not compute the same
"""
