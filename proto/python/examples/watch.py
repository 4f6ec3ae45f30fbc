"""Follows several jobs at once: watch.py NAME..."""

import asyncio
import sys

from espalier import AsyncClient, v1


async def follow(cluster: AsyncClient, name: str) -> None:
    async for update in cluster.watch(name):
        if update.HasField("event"):
            print(f"{name}: {v1.Job.State.Name(update.event.state)}: {update.event.message}", flush=True)
        else:
            print(f"{name}: step {update.progress.step} of {update.progress.total_steps}", flush=True)


async def main() -> None:
    async with AsyncClient() as cluster:
        await asyncio.gather(*(follow(cluster, name) for name in sys.argv[1:]))


asyncio.run(main())
