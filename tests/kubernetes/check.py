#!/usr/bin/env python3
"""Renders every overlay of deploy/kubernetes and checks what comes out; `make test-kubernetes` runs it.

1. kustomize (the Go library behind `kubectl kustomize`) renders it.
2. Every resource of Kubernetes' own fits the published schema of each of the three newest versions, with no
   field that the schema does not know.
3. The rules of the house hold, see rules.py: no root, probes that wait for nobody, budgets, policies.
4. Every name that a resource refers to is there.
5. The rules of TrainingJob's definition, run by an interpreter of CEL, let through and refuse what they must, see
   definition.py.

Then it breaks a rendered overlay in one way after another and expects each break to be found.
"""

import ctypes
import shutil
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

import definition
import rules

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
OVERLAYS = REPO / "deploy/kubernetes/overlays"
LIBRARY = REPO / ".espalier/pykube/libpykustomize.so"
VERSIONS = ["1.35", "1.36", "1.37"]
# What cert-manager and the Prometheus operator define; their schemas are theirs to publish.
FOREIGN = ("cert-manager.io/", "monitoring.coreos.com/")


def render(folder):
    """The resources of a kustomization."""
    library = ctypes.CDLL(str(LIBRARY))
    library.pykustomize_last_error.restype = ctypes.c_char_p
    result = ctypes.c_char_p()
    if library.pykustomize_build(str(folder).encode(), b"{}", ctypes.byref(result)) != 0:
        sys.exit(f"{folder}: kustomize says: {library.pykustomize_last_error().decode()}")
    return [document for document in yaml.safe_load_all(result.value.decode()) if document]


def with_secrets(work):
    """A copy of deploy/kubernetes, and of what it refers to, whose local overlay has files where secrets.sh would put keys."""
    copy = work / "kubernetes"
    shutil.copytree(REPO / "deploy/kubernetes", copy, ignore=shutil.ignore_patterns("secrets"))
    shutil.copytree(REPO / "deploy/observability", work / "observability")
    secrets = copy / "overlays/local/secrets"
    for name in ["coordinator", "worker", "operator"]:
        (secrets / name).mkdir(parents=True)
        for file in ["ca.crt", "tls.crt", "tls.key"]:
            (secrets / name / file).write_text("not a key\n")
    for file in ["tokens.yaml", "data-key"]:
        (secrets / file).write_text("not a secret\n")
    return copy


def label(resource):
    return f"{resource['kind']}/{resource['metadata']['name']}"


def schema_faults(resources):
    faults = []
    for resource in resources:
        if resource["apiVersion"].startswith(FOREIGN):
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                faults.append(f"{label(resource)}: Kubernetes {version}: {error.message} at {'.'.join(map(str, error.path))}")
            except kubernetes_validate.SchemaNotFoundError:
                faults.append(f"{label(resource)}: Kubernetes {version} knows no {resource['apiVersion']} {resource['kind']}")
    return faults


def main():
    found = sorted(folder for folder in OVERLAYS.iterdir() if (folder / "kustomization.yaml").is_file())
    failed = False
    with tempfile.TemporaryDirectory() as work:
        copy = with_secrets(Path(work))
        for folder in found:
            resources = render(copy / "overlays" / folder.name)
            faults = schema_faults(resources) + rules.faults(resources)
            kinds = sorted({resource["kind"] for resource in resources})
            print(f"{folder.name}: {len(resources)} resources ({', '.join(kinds)}), Kubernetes {', '.join(VERSIONS)}")
            defined = rules.named(resources, "CustomResourceDefinition")["trainingjobs.espalier.dev"]
            faults += definition.faults(defined)
            for fault in faults:
                print(f"  FAULT {fault}")
            failed |= bool(faults)
            if not faults:
                missed = rules.missed(resources) + definition.missed(defined)
                planted = len(rules.BREAKS) + len(definition.BREAKS)
                print(f"  {planted - len(missed)} of {planted} planted faults found")
                for name in missed:
                    print(f"  FAULT nobody noticed: {name}")
                failed |= bool(missed)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
