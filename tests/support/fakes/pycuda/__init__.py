"""A pycuda without a GPU: device memory is host memory, streams are queues, and misuse is an error."""
