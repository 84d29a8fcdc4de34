"""Installation: `pip install .` (or `pip install -e ".[test]"` from a clone)."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = "0.2.0"

setup(
    name="vmae_det",
    version=VERSION,
    description="VideoMAE backbones, from pre-training on video to spatio-temporal action detection",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["vmae_det", "vmae_det.*"]), "vmae_det.model_zoo.configs"],
    # The configs live at the top of the repository, where people look for them, and ship inside the package.
    package_dir={"vmae_det.model_zoo.configs": "configs"},
    package_data={
        "vmae_det.formats": ["label_maps/*"],
        "vmae_det.model_zoo.configs": ["**/*.yaml"],
        "vmae_det.rendering": ["page_template/*"],
        "vmae_det.visualization": ["*.css", "*.html", "*.js"],
        "vmae_det.studies": ["*.html"],
        "vmae_det.web.annotate": ["page/*"],
        "vmae_det.web.serve": ["page/*"],
    },
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0",
        "safetensors>=0.4.3",
        "huggingface_hub>=0.25",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "numpy>=1.26",
        "polars>=1.21",
        "scipy>=1.10",
        # decord publishes wheels for these two platforms only; PyAV reads the videos unless it is asked for.
        "decord>=0.6; platform_machine == 'x86_64' and sys_platform == 'linux'",
        "decord>=0.6; platform_machine == 'AMD64' and sys_platform == 'win32'",
        # 17.0 crashes on some of the tests' videos; 19 drops arguments that are used.
        "av>=17.1,<19",
        "opencv-python-headless>=4.8",
        "pycocotools>=2.0.7",
        "pillow>=10.1",
        "simplejson>=3.19",
        "tensorboard>=2.15",
        "tqdm>=4.66",
        "filelock>=3.12",
        "packaging>=22",  # of vmae-det doctor
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-cov>=5",
            "pytest-xdist>=3.5",
            "ruff==0.17.*",
            "import-linter>=2.5",
            "transformers>=4.44",
            "hiera-transformer>=0.1.4",
            "hypothesis>=6.100",
            "selenium>=4.20",
            "onnx>=1.17",
            "onnxscript>=0.5",
            "onnxruntime>=1.20",
            "matplotlib>=3.8",
            "scikit-learn>=1.4",
            "submitit>=1.5",
            "h5py>=3.10",
            "starlette>=0.40",
            "uvicorn>=0.30",
        ],
        "onnx": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
        # Backbone Hiera. Code Apache-2.0; it needs only torch, timm, tqdm and packaging.
        "hiera": ["hiera-transformer>=0.1.4"],
        "hdf5": ["h5py>=3.10"],  # of features --format hdf5
        "plots": ["matplotlib>=3.8", "scikit-learn>=1.4"],  # of visualize curves and embedding, and study
        "docs": ["sphinx>=8", "myst-parser>=4", "furo>=2024.8.6", "sphinx-copybutton>=0.5.2"],
        # Readers torchcodec and nvdec. Needs torch 2.11 and the shared libraries of FFmpeg 4 to 9, which pip
        # does not install (apt-get install ffmpeg, or conda install ffmpeg).
        "gpu-decode": ["torchcodec>=0.11"],
        "web": ["starlette>=0.40", "uvicorn>=0.30"],  # of annotate and serve
        "slurm": ["submitit>=1.5"],
        "wandb": ["wandb>=0.17"],
        "detectron2": ["detectron2 @ git+https://github.com/facebookresearch/detectron2.git"],
    },
    entry_points={"console_scripts": ["vmae-det=vmae_det.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
