package flowtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// answer is a response before it is written.
type answer struct {
	status int
	header http.Header // may be nil
	body   []byte
}

func (a answer) ok() bool { return a.status >= 200 && a.status < 300 }

// with returns a with one more header.
func (a answer) with(key, value string) answer {
	a.header = a.header.Clone()
	if a.header == nil {
		a.header = http.Header{}
	}
	a.header.Set(key, value)
	return a
}

func jsonAnswer(status int, v any) answer {
	body, err := json.Marshal(v)
	if err != nil { // only values that came from JSON are answered
		status, body = http.StatusInternalServerError, nil
	}
	return answer{status: status, body: body}.with("Content-Type", "application/json")
}

// flowReport and flowBody are the Flow Service's current error shape.
type flowReport struct {
	Message   string `json:"detailed-message"`
	ID        string `json:"id,omitempty"`
	Type      string `json:"type,omitempty"`
	RequestID string `json:"request-id"`
}

type flowBody struct {
	Type         string     `json:"type"`
	Title        string     `json:"title"`
	Status       int        `json:"status"`
	Report       flowReport `json:"report"`
	ErrorMessage string     `json:"errorMessage"`
	ErrorDetails string     `json:"errorDetails"`
}

func flowAnswer(status int, code, title string, report flowReport) answer {
	if code != "" && code[0] >= '0' && code[0] <= '9' {
		code = "FLOW-" + code
	}
	return jsonAnswer(status, flowBody{
		Type: "https://ns.adobe.com/aep/errors/" + code, Title: title, Status: status, Report: report,
		ErrorMessage: report.Message, ErrorDetails: report.Message,
	})
}

// flowError answers with the catalogue's entry for code, such as "1415-400", args filling its text.
func (x *exchange) flowError(code string, args ...any) answer {
	entry := catalogue[code]
	return flowAnswer(codeStatus(code), code, entry.title,
		flowReport{Message: fmt.Sprintf(entry.text, args...), RequestID: x.requestID})
}

// notFound answers that x's id is none of the given kind. Adobe's catalogue says 1439-400, its one
// full body FLOW-1439-404; the latter is followed.
func (x *exchange) notFound(kind string) answer {
	text := fmt.Sprintf(catalogue["1439-404"].text, kind, x.id)
	return flowAnswer(http.StatusNotFound, "1439-404", catalogue["1439-404"].title,
		flowReport{Message: text, ID: x.id, Type: kind, RequestID: x.requestID})
}

// codeStatus returns the HTTP status at the end of a code such as "1415-400", or 400.
func codeStatus(code string) int {
	n, err := strconv.Atoi(code[strings.LastIndexByte(code, '-')+1:])
	if err != nil || n < 100 || n > 599 {
		return http.StatusBadRequest
	}
	return n
}

// gatewayAnswer is the shape of Adobe's gateway. The HTTP status is the code's first three digits.
func gatewayAnswer(code string) answer {
	status, err := strconv.Atoi(code[:min(3, len(code))])
	if err != nil {
		status = http.StatusBadRequest
	}
	return gatewayBody(status, code, gatewayTexts[code])
}

func gatewayBody(status int, code any, text string) answer {
	return jsonAnswer(status, struct {
		Code    any    `json:"error_code"`
		Message string `json:"message"`
	}{code, text})
}

// legacyAnswer is the Flow Service's older error shape.
func legacyAnswer(status int, text string) answer {
	return jsonAnswer(status, struct {
		Message string `json:"errorMessage"`
		Details string `json:"errorDetails"`
	}{text, text})
}

// problemAnswer is the platform's generic shape, close to RFC 7807.
func problemAnswer(status int, title, detail string) answer {
	return jsonAnswer(status, struct {
		Type   string `json:"type"`
		Status int    `json:"status"`
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}{"/placeholder/type/uri", status, title, detail})
}

func badRequest(detail string) answer {
	return problemAnswer(http.StatusBadRequest, "BadRequestError", detail)
}

// imsAnswer is the error shape of IMS.
func imsAnswer(status int, code, description string) answer {
	return jsonAnswer(status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description,omitempty"`
	}{code, description})
}
