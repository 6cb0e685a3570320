"""What `img2shape k8s` makes: objects for Kubernetes with the KubeRay operator."""
