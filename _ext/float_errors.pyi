# Nothing that Python sees: other extensions cimport its functions.
