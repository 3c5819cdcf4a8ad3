package flowtest

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHabitsOfStoring: what is sent, and what is shown of it.
func TestHabitsOfStoring(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for habit, want := range map[Habit][2]string{
		HabitLowerNames:        {" u\u0308ber  alles\u200b ", "A  [b] C"},
		HabitComposedNames:     {" \u00dcber  Alles\u200b ", "A  [b] C"},
		HabitPlainNames:        {"U\u0308ber Alles", "A  [b] C"},
		HabitCutNames:          {" U", "A  [b] C"},
		HabitLowerDescriptions: {" U\u0308ber  Alles\u200b ", "a  [b] c"},
		HabitUpperDescriptions: {" U\u0308ber  Alles\u200b ", "A  [B] C"},
		HabitPlainDescriptions: {" U\u0308ber  Alles\u200b ", "A [b] C"},
		HabitEscaped:           {" U\u0308ber  Alles\u200b ", "A  &#91;b&#93; C"},
		HabitLowerIDs:          {" U\u0308ber  Alles\u200b ", "A  [b] C"},
	} {
		b.em.SetFaults(Fault{Operation: OpCreate, Effect: EffectStore, Habits: []Habit{habit}, Bytes: 3})
		body := createJSON(" U\u0308ber  Alles\u200b ", "A  [b] C")
		if habit == HabitLowerIDs {
			body = strings.ReplaceAll(body, DatabricksSpecID, strings.ToUpper(DatabricksSpecID))
		}
		b.do(http.MethodPost, "/connections", body, nil).want(t, 201)
		got := b.em.Connections()
		last := got[len(got)-1]
		if diff := cmp.Diff(want, [2]string{last.Name, last.Description}); diff != "" {
			t.Errorf("%s: %s", habit, diff)
		}
	}
}

// TestHabitsOfLists: they leave out, order and filter as they like; GET by id shows everything.
func TestHabitsOfLists(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var ids []string
	for _, name := range []string{"Orders", "orders", "other"} {
		ids = append(ids, b.create(name).ID)
	}
	b.em.SetFaults(Fault{Operation: OpList, Effect: EffectOmit, Fields: []string{"description", "auth", "state", "createdAt"}},
		Fault{Operation: OpList, Effect: EffectUnordered}, Fault{Operation: OpList, Effect: EffectFoldNames})
	var list struct {
		Items []map[string]any `json:"items"`
	}
	b.get("/connections?orderby=-createdAt").decode(t, &list)
	var got []string
	for _, i := range list.Items {
		got = append(got, i["id"].(string))
		for _, f := range []string{"description", "auth", "state", "createdAt"} {
			if _, there := i[f]; there {
				t.Errorf("%s is listed", f)
			}
		}
	}
	slices.Sort(ids)
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Errorf("not by id: %s", diff)
	}
	if names := b.names(query("name==ORDERS")); len(names) != 2 {
		t.Errorf("by name: %v", names)
	}
	if body := string(b.get("/connections/" + ids[0]).body); !strings.Contains(body, `"state"`) || !strings.Contains(body, `"createdAt"`) {
		t.Errorf("by id: %s", body)
	}
	b.em.SetFaults(Fault{Operation: OpList, Effect: EffectRefuseQuery, Fields: []string{"property", "orderby", "limit"}})
	for q, code := range map[string]string{query("name==x"): "1449-400", "/connections?orderby=-createdAt": "1433-400", "/connections?limit=5": "1451-400"} {
		b.get(q).want(t, 400).wantCode(t, code)
	}
	b.get("/connections").want(t, 200)
}

func TestStatesAndUniqueNames(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.SetFaults(Fault{Effect: EffectState, State: "draft"})
	b.create("orders")
	b.em.SetFaults(Fault{Effect: EffectState, State: "disabled"}, Fault{Effect: EffectUniqueNames})
	b.create("others")
	for name, state := range map[string]string{"orders": "draft", "others": "disabled"} {
		if body := string(b.get(query("name==" + name)).body); !strings.Contains(body, `"state":"`+state+`"`) {
			t.Errorf("%s: %s", name, body)
		}
	}
	r := b.do(http.MethodPost, "/connections", createJSON("orders", ""), nil).want(t, 409)
	if !strings.Contains(string(r.body), "A connection with the name 'orders' already exists.") || len(b.em.Connections()) != 2 {
		t.Errorf("%s", r.body)
	}
	b.em.SetFaults(Fault{Effect: EffectUniqueNames, Status: 422, Message: "name is not unique"})
	b.do(http.MethodPost, "/connections", createJSON("orders", ""), nil).want(t, 422)
}
