"""The manifest of `vcae run --emit k8s` against the published schemas of Kubernetes, unknown fields refused.

    pip install kubernetes-validate && python tests/k8s/check.py

By hand, for the schemas are 22 MB. A schema says that a manifest is well formed, not that it does what it should on a cluster.
"""

import copy
import sys

import kubernetes_validate
import yaml

from vcae_nb.book.cli import experiments, grid
from vcae_nb.book.engine import kubernetes_job, Resources


def main():
    specs = [spec for name in experiments() for spec in grid(name, "paper", None)[0]]
    for resources in (Resources(), Resources("cpu", jobs=4, cpus=2, mem=1.5)):
        for document in yaml.safe_load_all(kubernetes_job(specs, "registry.example/vcae_nb:0.1", "vcae", resources, "vcae-paper")):
            for version in ("1.29", "1.33"):
                used = kubernetes_validate.validate(document, version, strict=True)
                print(f"{document['kind']:10} {document['metadata']['name']:20} valid for Kubernetes {used}")
    wrong = copy.deepcopy(document)
    wrong["spec"]["backOffLimitPerIndex"] = 5
    try:
        kubernetes_validate.validate(wrong, "1.33", strict=True)
    except kubernetes_validate.ValidationError as e:
        print("and a misspelt field is found:", e.message.splitlines()[0][:100])
    else:
        sys.exit("the schema lets a misspelt field pass")


if __name__ == "__main__":
    main()
