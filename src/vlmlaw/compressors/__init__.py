"""Visual-token compressors: tensors in, tensors out."""
