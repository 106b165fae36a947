# mypy: ignore-errors
import os

import torch.utils.cpp_extension as cpp
from setuptools import setup

# A torch built for CPU alone looks for no toolkit by itself.
cpp.CUDA_HOME = os.environ["CUDA_HOME"]

setup(
    ext_modules=[
        cpp.CppExtension(
            "sample_extension._C",
            ["csrc/bind.cpp", "csrc/axpy.cu", "csrc/scale.cu"],
            include_dirs=cpp.include_paths("cuda"),
            library_dirs=[cpp.CUDA_HOME + "/lib64"],
            libraries=["cudart"],
        )
    ],
    cmdclass={"build_ext": cpp.BuildExtension},
)
