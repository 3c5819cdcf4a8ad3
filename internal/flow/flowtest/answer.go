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

// refuse returns a as the refusal of a check, whose nil means that there is none.
func refuse(a answer) *answer { return &a }

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

// catalogue holds the errors that the emulator raises by itself, by the code at the end of their
// type: title, and text with its placeholders. Codes, titles and the sense of the texts are those of
// Adobe's published catalogues of Flow Service and sources errors.
var catalogue = map[string]struct{ title, text string }{
	"1304-400": {"Invalid request", "The mandatory field '%s' is missing in auth params."},
	"1308-400": {"Bad Request", "Request could not be processed: %s"},
	"1401-400": {"Invalid request", "The limit and count parameters cannot be given together in the same request."},
	"1402-400": {"Invalid request", "The action '%s' is supported for provider requests only."},
	"1403-400": {"Header is missing", "The header 'If-Match' is missing in the request."},
	"1404-412": {"Version not matching", "Supplied version does not match the current version."},
	"1405-400": {"Invalid request", "The request body cannot be null or empty."},
	"1413-400": {"Invalid request", "The spec ID provided is invalid. Please provide a valid spec ID and try again."},
	"1414-400": {"Invalid request", "The connection spec of a connection cannot be updated."},
	"1415-400": {"Invalid request", "Auth spec '%s' not found for the connection spec."},
	"1417-400": {"Invalid request", "Delete or Update on Connections in `initializing` state are not allowed with UserToken."},
	"1432-400": {"Invalid request", "Sort order specified is not correct, prepend + for ascending order and - for descending order in the fieldName."},
	"1433-400": {"Invalid request", "Incorrect field= %s passed in orderBy, example are +name, -name, name."},
	"1434-400": {"Invalid request", "Unsupported operation '%s' received. Please use one of the supported operation types and try again."},
	"1439-404": {"Resource not found", "The requested %s resource %s is not found."},
	"1440-400": {"Invalid request", "Operator '%s' not implemented."},
	"1443-400": {"Invalid request", "Operator '%s' is not allowed for multiple values."},
	"1448-400": {"Invalid request", "Operator %s not supported for field %s."},
	"1449-400": {"Invalid request", "Invalid field %s in filter params."},
	"1450-400": {"Invalid request", "Invalid operator %s in filter params."},
	"1451-400": {"Invalid request", "Invalid params %s provided in query params."},
	"1452-400": {"Invalid request", "Invalid value %s for field %s."},
	"1453-400": {"Invalid request", "Invalid query value %s provided in query param."},
	"1455-400": {"Invalid request", "An error has occurred while validating patch instructions: %s"},
	"1456-400": {"Invalid request", "State %s is not a valid value. Allowed values are [enabled, disabled, initializing]."},
	"2105-400": {"Header is missing", "The header x-sandbox-name is missing in the request."},
	"2110-400": {"Headers not allowed", "The header x-sandbox-id is not allowed with the user token."},
	"2111-403": {"Headers with value restricted", "The header x-sandbox-name with value * is restricted with the user token."},

	// Raised by faults only.
	"1100-400": {"Invalid request", "The request could not be processed. Error from flow provider: Not entitled to this operation."},
	"1102-500": {"Internal Error", "An internal error has occurred."},
	"1103-503": {"Service Unavailable", "The service is temporarily unavailable."},
	"1104-504": {"Gateway Timeout", "A gateway timeout has occurred."},
	"1418-400": {"Invalid request", "Base connection is used by one or more flows."},
	"2120-403": {"Forbidden", "Not enough permissions for this operation."},
}

// gatewayTexts holds the messages of Adobe's gateway by error_code. 429050 is documented for another
// Adobe service behind the same gateway only.
var gatewayTexts = map[string]string{
	"400003": "Missing header",
	"401013": "Oauth token is not valid",
	"403000": "Api Key is required",
	"403003": "Api Key is invalid",
	"403010": "Oauth token is missing.",
	"403025": "Profile is not valid",
	"403027": "User region is missing",
	"429050": "Too many requests",
}
