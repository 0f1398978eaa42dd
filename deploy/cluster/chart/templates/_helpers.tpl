{{- define "qscale.labels" -}}
app.kubernetes.io/name: qscale
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "qscale.metadata" -}}
name: qscale-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "qscale.labels" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "qscale.image" -}}
{{ .repository }}:{{ .tag | default .version }}
{{- end }}

{{- define "qscale.secret" -}}
{{ .Values.credentials.existingSecret | default "qscale-credentials" }}
{{- end }}

{{- define "qscale.nats" -}}
{{ .Values.nats.url | default (printf "nats://qscale-nats.%s.svc:4222" .Release.Namespace) }}
{{- end }}

{{- define "qscale.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "qscale.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "qscale.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* One service: its configuration, pods and budget. Keys: root, component, kind, replicas, user, program, config, image, resources, placement, account, tokenSecret, caConfigMap. */}}
{{- define "qscale.service" -}}
{{- $nats := dict "url" (include "qscale.nats" .root) "user" .user "password_file" "/etc/qscale/credentials/password" -}}
{{- $config := mergeOverwrite (dict "health" "0.0.0.0:8080" "nats" $nats) .config -}}
{{- $partitioned := eq .kind "StatefulSet" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "qscale.metadata" . | nindent 2 }}
data:
  config.json: {{ toJson $config | quote }}
---
apiVersion: apps/v1
kind: {{ .kind }}
metadata:
  {{- include "qscale.metadata" . | nindent 2 }}
spec:
  replicas: {{ .replicas }}
  selector:
    matchLabels:
      {{- include "qscale.labels" . | nindent 6 }}
  {{- if $partitioned }}
  serviceName: qscale-{{ .component }}
  podManagementPolicy: Parallel
  {{- end }}
  template:
    metadata:
      labels:
        {{- include "qscale.labels" . | nindent 8 }}
      annotations:
        qscale.dev/config: {{ toJson $config | sha256sum }}
        {{- with .root.Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      enableServiceLinks: false
      {{- if .account }}
      serviceAccountName: qscale-{{ .component }}
      {{- else }}
      automountServiceAccountToken: false
      {{- end }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "qscale.podSecurity" . | nindent 8 }}
      {{- with include "qscale.placement" .placement }}
      {{- . | nindent 6 }}
      {{- end }}
      containers:
        - name: {{ .program }}
          image: {{ include "qscale.image" (dict "repository" .image.repository "tag" .image.tag "version" .root.Chart.AppVersion) }}
          imagePullPolicy: {{ .image.pullPolicy }}
          command: [{{ .program }}, --config, /etc/qscale/config/config.json]
          {{- if or $partitioned .caConfigMap }}
          env:
            {{- if .caConfigMap }}
            - { name: SSL_CERT_FILE, value: /etc/qscale/ca/ca.crt }
            {{- end }}
            {{- if $partitioned }}
            - name: {{ printf "QSCALE_%s__PARTITION__COUNT" .service }}
              value: {{ .replicas | quote }}
            - name: {{ printf "QSCALE_%s__PARTITION__INDEX" .service }}
              valueFrom: { fieldRef: { fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']" } }
            {{- end }}
          {{- end }}
          ports:
            - { name: health, containerPort: 8080 }
          startupProbe: { httpGet: { path: /healthz, port: health }, periodSeconds: 1, failureThreshold: 60 }
          livenessProbe: { httpGet: { path: /healthz, port: health }, periodSeconds: 10, timeoutSeconds: 5 }
          readinessProbe: { httpGet: { path: /readyz, port: health }, periodSeconds: 5, timeoutSeconds: 5 }
          resources:
            {{- toYaml .resources | nindent 12 }}
          securityContext:
            {{- include "qscale.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - { name: config, mountPath: /etc/qscale/config, readOnly: true }
            - { name: credentials, mountPath: /etc/qscale/credentials, readOnly: true }
            - { name: tmp, mountPath: /tmp }
            {{- if .tokenSecret }}
            - { name: token, mountPath: /etc/qscale/token, readOnly: true }
            {{- end }}
            {{- if .caConfigMap }}
            - { name: ca, mountPath: /etc/qscale/ca, readOnly: true }
            {{- end }}
      volumes:
        {{- with .tokenSecret }}
        - name: token
          secret: { secretName: {{ . }}, items: [{ key: token, path: token }] }
        {{- end }}
        {{- with .caConfigMap }}
        - name: ca
          configMap: { name: {{ . }}, items: [{ key: ca.crt, path: ca.crt }] }
        {{- end }}
        - name: config
          configMap: { name: qscale-{{ .component }} }
        - name: credentials
          secret:
            secretName: {{ include "qscale.secret" .root }}
            items: [{ key: {{ .user }}, path: password }]
        - name: tmp
          emptyDir: { sizeLimit: 256Mi }
---
apiVersion: v1
kind: Service
metadata:
  {{- include "qscale.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "qscale.labels" . | nindent 4 }}
  ports:
    - { name: health, port: 8080, targetPort: health }
{{- if gt (int .replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "qscale.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "qscale.labels" . | nindent 6 }}
{{- end }}
{{- if .account }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "qscale.metadata" . | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  {{- include "qscale.metadata" . | nindent 2 }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: qscale-{{ .component }} }
subjects:
  - { kind: ServiceAccount, name: qscale-{{ .component }}, namespace: {{ .root.Release.Namespace }} }
{{- end }}
{{- end }}
