"""The messages of `espalier.v1`, made from the protos when the package was built; docs/api.md explains them."""

from .cluster_pb2 import *  # noqa: F403
from .job_pb2 import *  # noqa: F403
from .plan_pb2 import *  # noqa: F403
from .progress_pb2 import *  # noqa: F403
from .spec_pb2 import *  # noqa: F403
from .task_pb2 import *  # noqa: F403
