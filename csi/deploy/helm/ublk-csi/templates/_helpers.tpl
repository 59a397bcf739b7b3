{{- define "ublk-csi.driver" -}}{{ .Values.provider }}.csi.ublk.io{{- end }}
{{- define "ublk-csi.name" -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- end }}
{{- define "ublk-csi.image" -}}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end }}
{{- define "ublk-csi.fences" -}}{{ if and (eq .Values.provider "rds") (ne .Values.rds.fence "off") }}true{{ end }}{{- end }}
{{- /* Two drivers on one node share its ports. */ -}}
{{- define "ublk-csi.healthPort" -}}{{ if eq .Values.provider "rds" }}9808{{ else }}9809{{ end }}{{- end }}
{{- define "ublk-csi.labels" -}}
app.kubernetes.io/name: ublk-csi
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
{{- define "ublk-csi.selector" -}}
app.kubernetes.io/name: ublk-csi
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- /* Nothing but the socket: what sidecars and the controller need. */ -}}
{{- define "ublk-csi.confined" -}}
runAsUser: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}
{{- /* Called with a dict: root, name, tag, args, and env where it needs the node's name. */ -}}
{{- define "ublk-csi.sidecar" -}}
- name: {{ .name }}
  image: {{ .root.Values.sidecars.registry }}/csi-{{ .name }}:{{ .tag }}
  args:
    - --csi-address=/csi/csi.sock
    {{- range .args }}
    - {{ . }}
    {{- end }}
  {{- if .node }}
  env:
    - name: NODE_NAME
      valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
    - name: NAMESPACE
      valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
    - name: POD_NAME
      valueFrom: { fieldRef: { fieldPath: metadata.name } }
  {{- end }}
  securityContext:
    {{- include "ublk-csi.confined" .root | nindent 4 }}
  resources:
    {{- toYaml .root.Values.sidecars.resources | nindent 4 }}
  volumeMounts:
    - { name: socket, mountPath: /csi }
{{- end }}
{{- define "ublk-csi.liveness" -}}
- name: liveness-probe
  image: {{ .Values.sidecars.registry }}/livenessprobe:{{ .Values.sidecars.livenessProbe }}
  args: [--csi-address=/csi/csi.sock, '--health-port={{ include "ublk-csi.healthPort" . }}', --probe-timeout=20s]
  securityContext:
    {{- include "ublk-csi.confined" . | nindent 4 }}
  resources:
    {{- toYaml .Values.sidecars.resources | nindent 4 }}
  volumeMounts:
    - { name: socket, mountPath: /csi }
{{- end }}
{{- define "ublk-csi.livenessOfDriver" -}}
livenessProbe:
  httpGet: { path: /healthz, port: health }
  initialDelaySeconds: 20
  periodSeconds: 30
  timeoutSeconds: 25
  failureThreshold: 5
{{- end }}
{{- /* Rules of whoever provisions: csi-provisioner and, for the provider ublk, each node's own. */ -}}
{{- define "ublk-csi.provisionerRules" -}}
- { apiGroups: [''], resources: [persistentvolumes], verbs: [get, list, watch, create, patch, delete] }
- { apiGroups: [''], resources: [persistentvolumeclaims], verbs: [get, list, watch, update] }
- { apiGroups: [''], resources: [events], verbs: [create, patch, list, watch, update] }
- { apiGroups: [''], resources: [nodes], verbs: [get, list, watch] }
- { apiGroups: [storage.k8s.io], resources: [storageclasses, csinodes, volumeattachments, volumeattributesclasses], verbs: [get, list, watch] }
- { apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshots], verbs: [get, list, watch, update] }
- { apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshotcontents], verbs: [get, list] }
{{- end }}
{{- define "ublk-csi.snapshotterRules" -}}
- { apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshotclasses], verbs: [get, list, watch] }
- { apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshotcontents], verbs: [get, list, watch, update, patch] }
- { apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshotcontents/status], verbs: [update, patch] }
{{- end }}
