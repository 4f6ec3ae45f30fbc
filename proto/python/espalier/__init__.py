"""Client of Espalier: submit, watch and steer training jobs.

    from espalier import Client

    with Client() as cluster:
        job = cluster.submit("job.yaml")
        cluster.wait(job.name)
        cluster.download(job.name, "model")

`AsyncClient` has the same methods for asyncio; `v1` are the messages; `errors` what calls raise; `jobfile` how
job files become messages.
"""

from . import errors, jobfile, v1
from .aio import AsyncClient
from .client import Client

__all__ = ["AsyncClient", "Client", "errors", "jobfile", "v1"]
