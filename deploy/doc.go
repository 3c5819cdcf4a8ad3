// Package deploy holds no code: its tests keep the files beside it true. They check that what these
// files name (settings, metrics, subjects, reasons) exists, that the NATS rights grant what the worker
// needs and nothing else, and that the manifests keep the promises their comments make.
package deploy
