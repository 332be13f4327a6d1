# Nothing here is seen from Python: other extensions cimport it.
