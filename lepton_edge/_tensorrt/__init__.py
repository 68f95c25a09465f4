"""What building and running a TensorRT engine share, on any machine; written for Python 3.8.

NVIDIA's `tensorrt` from 8.5 to 11 and `tensorrt_rtx` have one interface, of which only what all of
them have is used. No more is needed than numpy, one of the two, and CUDA's runtime library.
"""
