"""Submits a job file and waits for its model: submit.py job.yaml"""

import sys

from espalier import Client, errors

with Client() as cluster:
    try:
        job = cluster.submit(sys.argv[1])
        done = cluster.wait(job.name)
    except errors.JobFileError as error:
        sys.exit(f"not a job file:\n{error}")
    except errors.InvalidArgumentError as error:
        sys.exit("\n".join(str(violation) for violation in error.violations))
    print(done.export_path)
