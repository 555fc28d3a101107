"Every setting is in settings.ini, which nbdev reads too: edit there, not here."
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    url=cfg["git_url"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Education",
        "Programming Language :: Python :: 3",
    ],
    packages=find_packages(include=["gpt_nb", "gpt_nb.*"]),
    package_data={"gpt_nb": ["fonts/*", "models/*/*", "models/*/*/*", "py.typed", "web/*",
                             "web/live/*"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={"dev": shlex.split(cfg["dev_requirements"]),
                    "fast": shlex.split(cfg["fast_requirements"]),
                    "track": shlex.split(cfg["track_requirements"])},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": ["gpt_nb=gpt_nb._modidx:d"],
    },
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    zip_safe=False,
)
