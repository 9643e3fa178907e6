{{/* Names and labels of the node agent. */}}

{{- define "lowbeam.agent.fullname" -}}
{{- printf "%s-agent" (include "lowbeam.fullname" . | trunc 57 | trimSuffix "-") -}}
{{- end -}}

{{- define "lowbeam.agent.selectorLabels" -}}
app.kubernetes.io/name: {{ include "lowbeam.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: agent
{{- end -}}

{{- define "lowbeam.agent.labels" -}}
{{ include "lowbeam.agent.selectorLabels" . }}
app.kubernetes.io/part-of: lowbeam
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "lowbeam.agent.tokenSecret" -}}
{{- default (printf "%s-token" (include "lowbeam.agent.fullname" .)) .Values.agent.powerLimits.existingSecret -}}
{{- end -}}

{{- define "lowbeam.agent.image" -}}
{{- if .Values.agent.image.digest -}}
{{ .Values.agent.image.repository }}@{{ .Values.agent.image.digest }}
{{- else -}}
{{ .Values.agent.image.repository }}:{{ default .Chart.AppVersion .Values.agent.image.tag }}
{{- end -}}
{{- end -}}
