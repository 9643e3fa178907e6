{{/* Names and labels of all objects. */}}

{{- define "lowbeam.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "lowbeam.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "lowbeam.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "lowbeam.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* A Service has 63 characters and no dots; releases may have dots, and with the chart's name up to 61. */}}
{{- define "lowbeam.metricsService" -}}
{{- printf "%s-metrics" (include "lowbeam.fullname" . | replace "." "-" | trunc 55 | trimSuffix "-") -}}
{{- end -}}

{{- define "lowbeam.selectorLabels" -}}
app.kubernetes.io/name: {{ include "lowbeam.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "lowbeam.labels" -}}
{{ include "lowbeam.selectorLabels" . }}
app.kubernetes.io/part-of: lowbeam
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "lowbeam.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "lowbeam.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "lowbeam.controlKeySecret" -}}
{{- default (printf "%s-control-key" (include "lowbeam.fullname" .)) .Values.controlKey.existingSecret -}}
{{- end -}}

{{- define "lowbeam.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}
