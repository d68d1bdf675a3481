"""The workflow as a Kubeflow pipeline: its graph, and how it runs on this machine, in containers and on a cluster."""
