"""The tensor codec: numpy arrays to and from serialized TensorProto."""

from runtime._ext.tensor_decode import DEFAULT_MAX_BYTES, decode_tensor, decode_tensor_ex
from runtime._ext.tensor_encode import encode_tensor

from runtime._ext.datatypes import dtype_of, enum_of, name_of

__all__ = ["DEFAULT_MAX_BYTES", "decode_tensor", "decode_tensor_ex", "dtype_of", "encode_tensor", "enum_of", "name_of"]
