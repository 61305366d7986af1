"""One file per array library: how its arrays are made and read.  Each may import its library at its top;
`backends.py` opens the file only when that backend is asked for."""
