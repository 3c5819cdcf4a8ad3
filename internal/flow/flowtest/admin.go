package flowtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
)

// serveAdmin answers what is below /_emulator/. These calls are not counted, kept or bent by faults.
func (e *Emulator) serveAdmin(w http.ResponseWriter, r *http.Request, path string) {
	a := e.adminAnswer(r, http.MaxBytesReader(w, r.Body, MaxBody), path)
	for key, values := range a.header {
		w.Header()[key] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client may have gone
}

func (e *Emulator) adminAnswer(r *http.Request, body io.Reader, path string) answer {
	id, oneFault := strings.CutPrefix(path, "faults/")
	switch call := r.Method + " " + path; {
	case call == "GET connections":
		return jsonAnswer(http.StatusOK, map[string]any{"connections": e.Connections()})
	case call == "GET requests":
		return jsonAnswer(http.StatusOK, map[string]any{"counts": e.log.tally(), "requests": keptRequests(e.Requests())})
	case call == "GET faults":
		return jsonAnswer(http.StatusOK, map[string]any{"faults": e.faults.report()})
	case call == "POST faults":
		return e.postFaults(body)
	case call == "DELETE faults":
		e.SetFaults()
		return answer{status: http.StatusNoContent}
	case r.Method == http.MethodDelete && oneFault && e.faults.remove(id):
		e.announce()
		return answer{status: http.StatusNoContent}
	case call == "POST reset":
		e.Reset()
		return answer{status: http.StatusNoContent}
	}
	return adminError(http.StatusNotFound, errors.New("no such call; there are GET connections, GET requests, "+
		"GET, POST and DELETE faults, DELETE faults/{id} and POST reset, all below "+adminBase+"/"))
}

func adminError(status int, err error) answer {
	return jsonAnswer(status, map[string]string{"error": err.Error()})
}

// postFaults adds one fault or an array of them: all, or none if one is not valid.
func (e *Emulator) postFaults(body io.Reader) answer {
	b, err := io.ReadAll(body)
	if err != nil {
		return adminError(http.StatusBadRequest, fmt.Errorf("the body cannot be read: %w", err))
	}
	faults, err := readFaults(b)
	if err != nil {
		return adminError(http.StatusBadRequest, err)
	}
	ids := make([]string, 0, len(faults))
	for _, f := range faults {
		ids = append(ids, e.faults.add(f))
	}
	e.announce()
	return jsonAnswer(http.StatusCreated, map[string]any{"ids": ids})
}

func readFaults(b []byte) ([]Fault, error) {
	b = bytes.TrimSpace(b)
	if !bytes.HasPrefix(b, []byte("[")) {
		b = append(append([]byte("["), b...), ']')
	}
	var faults []Fault
	if err := json.Unmarshal(b, &faults); err != nil {
		return nil, fmt.Errorf("want a fault or an array of faults: %w", err)
	}
	if len(faults) == 0 {
		return nil, errors.New("want a fault or an array of faults, got none")
	}
	for i, f := range faults {
		if err := f.Validate(); err != nil {
			return nil, fmt.Errorf("fault %d: %w", i, err)
		}
	}
	return faults, nil
}

// faultReport is a fault in use, for people.
type faultReport struct {
	ID     string `json:"id"`
	Seen   int    `json:"seen"`   // calls that it selects
	Struck int    `json:"struck"` // calls that it acted on
	Fault  Fault  `json:"fault"`
}

func (s *faultSet) report() []faultReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]faultReport, 0, len(s.list))
	for _, a := range s.list {
		out = append(out, faultReport{a.id, a.seen, a.struck, a.Fault})
	}
	return out
}

// keptRequest is a request with its body as readable text.
type keptRequest struct {
	Request
	Body string `json:"body,omitempty"`
}

func keptRequests(requests []Request) []keptRequest {
	out := make([]keptRequest, 0, len(requests))
	for _, r := range requests {
		out = append(out, keptRequest{r, string(r.Body)})
	}
	return out
}

func (r *recorder) tally() map[Operation]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}
