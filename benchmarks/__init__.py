"""Speed, memory and error of crfrnn beside other dense CRFs: `python -m benchmarks --help`."""
