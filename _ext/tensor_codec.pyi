from runtime._ext.datatypes import dtype_of as dtype_of
from runtime._ext.datatypes import enum_of as enum_of
from runtime._ext.datatypes import name_of as name_of
from runtime._ext.tensor_decode import DEFAULT_MAX_BYTES as DEFAULT_MAX_BYTES
from runtime._ext.tensor_decode import decode_tensor as decode_tensor
from runtime._ext.tensor_decode import decode_tensor_ex as decode_tensor_ex
from runtime._ext.tensor_encode import encode_tensor as encode_tensor

__all__ = ["DEFAULT_MAX_BYTES", "decode_tensor", "decode_tensor_ex", "dtype_of", "encode_tensor", "enum_of", "name_of"]
