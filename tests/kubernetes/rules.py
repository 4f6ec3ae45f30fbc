"""What must hold of rendered manifests, and faults that must be noticed."""

import copy
import re

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
LABELS = ["app.kubernetes.io/name", "app.kubernetes.io/component"]


def label(resource):
    return f"{resource['kind']}/{resource['metadata']['name']}"


def named(resources, kind):
    return {resource["metadata"]["name"]: resource for resource in resources if resource["kind"] == kind}


def pod(resource):
    return resource["spec"]["template"]["spec"]


def matches(selector, labels):
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def workload_faults(resource):
    """Of one workload: who it runs as, what it asks for, how it is asked whether it is well."""
    spec = pod(resource)
    labels = resource["spec"]["template"]["metadata"]["labels"]
    for key in LABELS:
        if key not in labels:
            yield f"no label {key} on its pods"
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser", 0) == 0:
        yield "may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    if not spec.get("priorityClassName"):
        yield "has no priority class"
    # Without a number it is another's to say, which may be any.
    if resource["spec"].get("replicas", 2) > 1 and not (spec.get("topologySpreadConstraints") or spec.get("affinity")):
        yield "may have all its pods on one node"
    for container in spec["containers"] + spec.get("initContainers", []):
        yield from (f"container {container['name']}: {fault}" for fault in container_faults(container))


def container_faults(container):
    security = container.get("securityContext", {})
    if security.get("readOnlyRootFilesystem") is not True:
        yield "its root file system can be written"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "keeps capabilities"
    resources = container.get("resources", {})
    for kind in ("cpu", "memory"):
        if kind not in resources.get("requests", {}):
            yield f"requests no {kind}"
    if "memory" not in resources.get("limits", {}):
        yield "has no limit of memory"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe not in container:
            yield f"has no {probe}"
        # Kubernetes' own default is a second, which a busy node may take: that is no reason to kill anything.
        elif container[probe].get("timeoutSeconds", 1) < 5:
            yield f"its {probe} waits less than 5 s for an answer"
    live, ready = (container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe"))
    how = lambda probe: probe.get("grpc", {}).get("service") or probe.get("httpGet", {}).get("path")
    if how(live) == how(ready):
        yield "asks the same of liveness and readiness: a pod would be killed for its peers' faults"
    text = " ".join(container.get("args", []))
    if "--insecure" in text or re.search(r"--coordinator=http:", text):
        yield "speaks plain text"
    if ":latest" in container["image"]:
        yield "runs whatever image is newest"


def reference_faults(resources):
    """Names that lead nowhere."""
    secrets = set(named(resources, "Secret")) | {
        certificate["spec"]["secretName"] for certificate in named(resources, "Certificate").values()}
    # Whoever uses the base alone makes this one by hand, see docs/kubernetes.md.
    secrets |= {"espalier-access"}
    for resource in resources:
        if resource["kind"] not in WORKLOADS:
            continue
        spec = pod(resource)
        for volume in spec.get("volumes", []):
            if "secret" in volume and volume["secret"]["secretName"] not in secrets:
                yield f"{label(resource)}: no secret {volume['secret']['secretName']}"
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in named(resources, "PersistentVolumeClaim"):
                yield f"{label(resource)}: no claim {claim}"
        account = spec.get("serviceAccountName")
        if account and account not in named(resources, "ServiceAccount"):
            yield f"{label(resource)}: no service account {account}"
        if spec.get("priorityClassName") not in named(resources, "PriorityClass"):
            yield f"{label(resource)}: no priority class {spec.get('priorityClassName')}"
        service = resource["spec"].get("serviceName")
        if service and service not in named(resources, "Service"):
            yield f"{label(resource)}: no service {service}"
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in resource["spec"].get("volumeClaimTemplates", [])}
        for container in spec["containers"]:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{label(resource)}: no volume {mount['name']}"
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if isinstance(port, str) and port not in ports:
                    yield f"{label(resource)}: its {probe} asks port {port}, which it does not have"


def guard_faults(resources):
    """Every workload has a budget, and nothing listens that no policy speaks of."""
    policies = named(resources, "NetworkPolicy").values()
    if not any(policy["spec"]["podSelector"] == {} and "Ingress" in policy["spec"]["policyTypes"]
               and not policy["spec"].get("ingress") for policy in policies):
        yield "no policy denies what no other allows"
    for resource in resources:
        if resource["kind"] not in WORKLOADS:
            continue
        labels = resource["spec"]["template"]["metadata"]["labels"]
        if not any(policy["spec"]["podSelector"] and matches(policy["spec"]["podSelector"], labels) for policy in policies):
            yield f"{label(resource)}: no network policy"
        if resource["kind"] in ("StatefulSet", "Deployment") and not any(
                matches(budget["spec"]["selector"], labels) for budget in named(resources, "PodDisruptionBudget").values()):
            yield f"{label(resource)}: no disruption budget"
    for service in named(resources, "Service").values():
        chosen = [resource for resource in resources if resource["kind"] in WORKLOADS
                  and matches({"matchLabels": service["spec"]["selector"]}, resource["spec"]["template"]["metadata"]["labels"])]
        if not chosen:
            yield f"{label(service)}: chooses no pods"
    worker = named(resources, "StatefulSet").get("espalier-worker")
    # SIGTERM makes it hand over. A notice lies in a volume of the pod, which outlives a container that a probe ends.
    if worker and any("--notice-file" in argument for argument in pod(worker)["containers"][0].get("args", [])):
        yield "StatefulSet/espalier-worker: a restarted container finds the notice to the one before, and leaves again"
    if worker and pod(worker).get("terminationGracePeriodSeconds", 30) < 30:
        yield "StatefulSet/espalier-worker: less time to hand over than the worker takes"
    # The operator scales them; a manifest with a number would undo that with every `kubectl apply`.
    if worker and "replicas" in worker["spec"]:
        yield "StatefulSet/espalier-worker: says how many, which is the operator's to say"
    for role in list(named(resources, "Role").values()) + list(named(resources, "ClusterRole").values()):
        for rule in role.get("rules", []):
            if "*" in rule.get("verbs", []) + rule.get("resources", []) + rule.get("apiGroups", []):
                yield f"{label(role)}: may do anything"
            if "secrets" in rule.get("resources", []):
                yield f"{label(role)}: may read secrets"


def monitoring_faults(resources):
    """Who is scraped is shown, too."""
    if named(resources, "ServiceMonitor") and "espalier-dashboard" not in named(resources, "ConfigMap"):
        yield "ConfigMap/espalier-dashboard: not there, though there is monitoring"


def faults(resources):
    """What is wrong, a sentence each."""
    found = []
    for resource in resources:
        if resource["kind"] in WORKLOADS:
            found += [f"{label(resource)}: {fault}" for fault in workload_faults(resource)]
    return found + list(reference_faults(resources)) + list(guard_faults(resources)) + list(monitoring_faults(resources))


def _worker(resources):
    return next(resource for resource in resources if label(resource) == "StatefulSet/espalier-worker")


def _container(resources):
    return pod(_worker(resources))["containers"][0]


def _drop(kind, name=None):
    def change(resources):
        resources[:] = [r for r in resources if r["kind"] != kind or name not in (None, r["metadata"]["name"])]
    return change


# One way to break an overlay each; every one must be noticed.
BREAKS = {
    "a worker as root": lambda r: pod(_worker(r)).pop("securityContext"),
    "a root file system that can be written": lambda r: _container(r)["securityContext"].update(readOnlyRootFilesystem=False),
    "capabilities kept": lambda r: _container(r)["securityContext"].pop("capabilities"),
    "no memory limit": lambda r: _container(r)["resources"].pop("limits"),
    "no liveness probe": lambda r: _container(r).pop("livenessProbe"),
    "liveness that waits for peers": lambda r: _container(r).update(livenessProbe=_container(r)["readinessProbe"]),
    "plain text to the coordinator": lambda r: _container(r).update(args=["--coordinator=http://espalier-coordinator:7443"]),
    "probes that wait for a second": lambda r: _container(r)["livenessProbe"].pop("timeoutSeconds"),
    "a notice that outlives its container": lambda r: _container(r)["args"].append("--notice-file=/tmp/leave"),
    "too little time for a drain": lambda r: pod(_worker(r)).update(terminationGracePeriodSeconds=5),
    "a number of workers": lambda r: _worker(r)["spec"].update(replicas=2),
    "a secret that is not there": lambda r: pod(_worker(r))["volumes"][-1].update(secret={"secretName": "none"}),
    "a claim that is not there": _drop("PersistentVolumeClaim"),
    "a headless service that is not there": _drop("Service", "espalier-workers"),
    "no budget": _drop("PodDisruptionBudget"),
    "no budget of operators": _drop("PodDisruptionBudget", "espalier-operator"),
    "no network policy of workers": _drop("NetworkPolicy", "espalier-worker"),
    "nothing denied": _drop("NetworkPolicy", "espalier-default-deny"),
    "no service account": _drop("ServiceAccount", "espalier-worker"),
    "no priority class": _drop("PriorityClass", "espalier-training"),
    "an operator that may do anything": lambda r: next(x for x in r if label(x) == "ClusterRole/espalier-operator")["rules"].append(
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
}


def missed(resources):
    """Names of the breaks that nobody notices."""
    unnoticed = []
    for name, change in BREAKS.items():
        broken = copy.deepcopy(resources)
        change(broken)
        if not faults(broken):
            unnoticed.append(name)
    return unnoticed
