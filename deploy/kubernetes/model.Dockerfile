# An image with its model: replicas are alike, and a tag names both. FOLDER is a model folder, such as runs/nano/final.
#
#   docker build -f deploy/kubernetes/model.Dockerfile --build-arg BASE=mmbert -t registry.example.org/mmbert:1 FOLDER
#
# Not built where this repository is tested: no container engine runs there.
ARG BASE=mmbert
FROM ${BASE}
COPY . /models/model
