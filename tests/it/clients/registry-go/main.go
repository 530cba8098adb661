// Confluent's own Go client asks our registry for everything that it can ask for.
//
// usage: judge-registry REGISTRY SUBJECT   prints what it found as JSON, under the same names as JudgeRegistry.java
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/confluentinc/confluent-kafka-go/v2/schemaregistry"
	"github.com/confluentinc/confluent-kafka-go/v2/schemaregistry/rest"
)

type judge struct {
	url     string
	subject string
	found   map[string]any
}

func main() {
	judge := judge{url: os.Args[1], subject: os.Args[2], found: map[string]any{}}
	judge.registers()
	judge.asksForCompatibility()
	judge.refers()
	judge.deletes()
	fmt.Println(string(must(json.Marshal(judge.found))))
}

// A client remembers what it was answered: this one has forgotten.
func (j judge) fresh() schemaregistry.Client {
	return must(schemaregistry.NewClient(schemaregistry.NewConfig(j.url)))
}

// Of a name that nobody else uses: what others registered first would be told in their words.
func record(fields string) schemaregistry.SchemaInfo {
	return schemaregistry.SchemaInfo{
		Schema: `{"type":"record","name":"JudgedByGo","namespace":"it","fields":[` + fields + `]}`,
	}
}

var (
	first    = record(`{"name":"id","type":"string","doc":"één \" \\ €"}`)
	second   = record(`{"name":"id","type":"string"},{"name":"amount","type":["null","long"],"default":null}`)
	breaking = record(`{"name":"id","type":"long"}`)
)

func must[T any](answer T, err error) T {
	if err != nil {
		panic(err)
	}
	return answer
}

// The error's code, or what was answered where it was none.
func code[T any](answer T, err error) any {
	var refused *rest.Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return must(answer, err)
}

func named(level schemaregistry.Compatibility, err error) string {
	must(level, err)
	return level.String()
}

func (j judge) registers() {
	j.found["unknown_subject"] = code(j.fresh().GetLatestSchemaMetadata(j.subject))
	j.found["looked_up_nowhere"] = code(j.fresh().GetID(j.subject, first, false))
	one := must(j.fresh().Register(j.subject, first, false))
	j.found["same_id"] = must(j.fresh().Register(j.subject, first, false)) == one
	two := must(j.fresh().Register(j.subject, second, false))
	j.found["distinct"] = one != two
	j.found["versions"] = must(j.fresh().GetAllVersions(j.subject))
	latest := must(j.fresh().GetLatestSchemaMetadata(j.subject))
	j.found["latest"] = latest.Version
	j.found["latest_is_second"] = latest.ID == two
	j.found["same_by_version"] = must(j.fresh().GetSchemaMetadata(j.subject, 1)).Schema == first.Schema
	j.found["same_by_id"] = must(j.fresh().GetBySubjectAndID(j.subject, one)).Schema == first.Schema &&
		must(j.fresh().GetBySubjectAndID("", two)).Schema == second.Schema
	j.found["version_of_first"] = must(j.fresh().GetVersion(j.subject, first, false))
	j.found["id_of_second"] = must(j.fresh().GetID(j.subject, second, false)) == two
	subjects := []string{}
	for _, user := range must(j.fresh().GetSubjectsAndVersionsByID(one)) {
		subjects = append(subjects, user.Subject)
	}
	j.found["subjects_of_id"] = subjects
	j.found["never_registered"] = code(j.fresh().GetID(j.subject, breaking, false))
	j.found["no_version"] = code(j.fresh().GetSchemaMetadata(j.subject, 99))
	j.found["no_id"] = code(j.fresh().GetBySubjectAndID("", math.MaxInt32))
	nothing := schemaregistry.SchemaInfo{Schema: `{"type":"nothing"}`}
	j.found["no_schema"] = code(j.fresh().Register(j.subject, nothing, false))
}

func (j judge) asksForCompatibility() {
	j.found["second_fits"] = must(j.fresh().TestSubjectCompatibility(j.subject, second))
	j.found["breaking_fits"] = must(j.fresh().TestCompatibility(j.subject, 1, breaking))
	j.found["breaking"] = code(j.fresh().Register(j.subject, breaking, false))
	j.found["default_level"] = named(j.fresh().GetDefaultCompatibility())
	j.found["no_level"] = code(j.fresh().GetCompatibility(j.subject))
	j.found["set_level"] = named(j.fresh().UpdateCompatibility(j.subject, schemaregistry.None))
	j.found["level"] = named(j.fresh().GetCompatibility(j.subject))
	must(j.fresh().Register(j.subject, breaking, false))
	j.found["third"] = must(j.fresh().GetVersion(j.subject, breaking, false))
}

func (j judge) refers() {
	holder := j.subject + "-holder"
	holding := schemaregistry.SchemaInfo{
		Schema:     `{"type":"record","name":"Holder","namespace":"it","fields":[{"name":"one","type":"it.JudgedByGo"}]}`,
		References: []schemaregistry.Reference{{Name: "it.JudgedByGo", Subject: j.subject, Version: 1}},
	}
	id := must(j.fresh().Register(holder, holding, false))
	referred := must(j.fresh().GetBySubjectAndID("", id)).References
	j.found["referring"] = len(referred) == 1 && referred[0].Subject == j.subject
	j.found["looked_up_referring"] = must(j.fresh().GetID(holder, holding, false)) == id
	j.found["referred_stays"] = code(j.fresh().DeleteSubjectVersion(j.subject, 1, false))
	must(j.fresh().DeleteSubject(holder, false))
}

func (j judge) deletes() {
	j.found["not_yet"] = code(j.fresh().DeleteSubjectVersion(j.subject, 2, true))
	j.found["deleted_version"] = must(j.fresh().DeleteSubjectVersion(j.subject, 2, false))
	j.found["deleted_again"] = code(j.fresh().DeleteSubjectVersion(j.subject, 2, false))
	j.found["left"] = must(j.fresh().GetAllVersions(j.subject))
	j.found["gone_version"] = code(j.fresh().GetSchemaMetadata(j.subject, 2))
	j.found["kept_version"] = must(j.fresh().GetSchemaMetadataIncludeDeleted(j.subject, 2, true)).Version
	j.found["deleted_for_good"] = must(j.fresh().DeleteSubjectVersion(j.subject, 2, true))
	j.found["subject_not_yet"] = code(j.fresh().DeleteSubject(j.subject, true))
	j.found["listed"] = slices.Contains(must(j.fresh().GetAllSubjects()), j.subject)
	j.found["deleted_subject"] = must(j.fresh().DeleteSubject(j.subject, false))
	j.found["deleted_subject_again"] = code(j.fresh().DeleteSubject(j.subject, false))
	j.found["gone_subject"] = code(j.fresh().GetAllVersions(j.subject))
	j.found["subject_for_good"] = must(j.fresh().DeleteSubject(j.subject, true))
	j.found["subject_for_good_again"] = code(j.fresh().DeleteSubject(j.subject, true))
}
