// Confluent's own Java client asks our registry for everything that it can ask for. Flink publishes that client under
// names of its own; Confluent itself publishes nothing where Maven looks first.
//
// usage: java -cp JARS JudgeRegistry.java REGISTRY SUBJECT   prints what it found as JSON, under the same names as
// judge-registry-go
import java.util.Collections;
import java.util.List;
import java.util.TreeMap;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.avro.AvroSchema;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.avro.AvroSchemaProvider;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.CachedSchemaRegistryClient;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.SchemaMetadata;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.rest.RestService;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.rest.entities.SchemaReference;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.rest.exceptions.RestClientException;
import org.apache.flink.avro.shaded.com.fasterxml.jackson.databind.ObjectMapper;

class JudgeRegistry {
    interface Asking {
        Object ask() throws Exception;
    }

    final String url;
    final String subject;
    final TreeMap<String, Object> found = new TreeMap<>();

    JudgeRegistry(String url, String subject) {
        this.url = url;
        this.subject = subject;
    }

    public static void main(String[] arguments) throws Exception {
        JudgeRegistry judge = new JudgeRegistry(arguments[0], arguments[1]);
        judge.registers();
        judge.asksForCompatibility();
        judge.refers();
        judge.setsModes();
        judge.deletes();
        System.out.println(new ObjectMapper().writeValueAsString(judge.found));
    }

    /** A client remembers what it was answered: this one has forgotten. */
    CachedSchemaRegistryClient fresh() {
        return new CachedSchemaRegistryClient(url, 100, List.of(new AvroSchemaProvider()), Collections.emptyMap());
    }

    static AvroSchema record(String fields) {
        return new AvroSchema("{\"type\":\"record\",\"name\":\"Judged\",\"namespace\":\"it\",\"fields\":[" + fields + "]}");
    }

    static final AvroSchema FIRST = record("{\"name\":\"id\",\"type\":\"string\",\"doc\":\"één \\\" \\\\ €\"}");
    static final AvroSchema SECOND = record("{\"name\":\"id\",\"type\":\"string\"},"
        + "{\"name\":\"amount\",\"type\":[\"null\",\"long\"],\"default\":null}");
    static final AvroSchema BREAKING = record("{\"name\":\"id\",\"type\":\"long\"}");

    /** The error's code, or what was answered where it was none. */
    static Object code(Asking asking) throws Exception {
        try {
            return asking.ask();
        } catch (RestClientException refused) {
            return refused.getErrorCode();
        }
    }

    void registers() throws Exception {
        found.put("unknown_subject", code(() -> fresh().getLatestSchemaMetadata(subject)));
        found.put("looked_up_nowhere", code(() -> fresh().getId(subject, FIRST)));
        int first = fresh().register(subject, FIRST);
        found.put("same_id", fresh().register(subject, FIRST) == first);
        int second = fresh().register(subject, SECOND);
        found.put("distinct", first != second);
        found.put("versions", fresh().getAllVersions(subject));
        SchemaMetadata latest = fresh().getLatestSchemaMetadata(subject);
        found.put("latest", latest.getVersion());
        found.put("latest_is_second", latest.getId() == second);
        found.put("same_by_version", new AvroSchema(fresh().getSchemaMetadata(subject, 1).getSchema()).equals(FIRST));
        found.put("same_by_id", fresh().getSchemaBySubjectAndId(subject, first).equals(FIRST)
            && fresh().getSchemaById(second).equals(SECOND));
        found.put("version_of_first", fresh().getVersion(subject, FIRST));
        found.put("id_of_second", fresh().getId(subject, SECOND) == second);
        found.put("subjects_of_id", fresh().getAllSubjectsById(first));
        found.put("never_registered", code(() -> fresh().getId(subject, BREAKING)));
        found.put("no_version", code(() -> fresh().getSchemaMetadata(subject, 99)));
        found.put("no_id", code(() -> fresh().getSchemaById(Integer.MAX_VALUE)));
        found.put("no_schema", code(() -> new RestService(url).registerSchema("{\"type\":\"nothing\"}", subject)));
        found.put("listed", fresh().getAllSubjectsByPrefix(subject));
        found.put("all_of_it", fresh().getSchemas(subject, false, false).size());
        found.put("newest_of_it", fresh().getSchemas(subject, false, true).size());
    }

    void asksForCompatibility() throws Exception {
        found.put("second_fits", fresh().testCompatibility(subject, SECOND));
        found.put("breaking_fits", fresh().testCompatibility(subject, BREAKING));
        found.put("breaking_is_explained", !fresh().testCompatibilityVerbose(subject, BREAKING).isEmpty());
        found.put("breaking", code(() -> fresh().register(subject, BREAKING)));
        found.put("default_level", fresh().getCompatibility(null));
        found.put("no_level", code(() -> fresh().getCompatibility(subject)));
        found.put("set_level", fresh().updateCompatibility(subject, "NONE"));
        found.put("level", fresh().getCompatibility(subject));
        found.put("no_such_level", code(() -> fresh().updateCompatibility(subject, "SIDEWAYS")));
        fresh().register(subject, BREAKING);
        found.put("third", fresh().getVersion(subject, BREAKING));
        fresh().deleteCompatibility(subject);
        found.put("no_level_again", code(() -> fresh().getCompatibility(subject)));
    }

    void refers() throws Exception {
        String holder = subject + "-holder";
        List<SchemaReference> references = List.of(new SchemaReference("it.Judged", subject, 1));
        AvroSchema holding = new AvroSchema("{\"type\":\"record\",\"name\":\"Holder\",\"namespace\":\"it\",\"fields\":"
            + "[{\"name\":\"one\",\"type\":\"it.Judged\"}]}", references, Collections.singletonMap("it.Judged",
                FIRST.canonicalString()), null);
        int id = fresh().register(holder, holding);
        found.put("referring", fresh().getSchemaById(id).references().get(0).getSubject().equals(subject));
        found.put("looked_up_referring", fresh().getId(holder, holding) == id);
        found.put("referred_stays", code(() -> fresh().deleteSchemaVersion(subject, "1")));
        fresh().deleteSubject(holder);
    }

    /** No other client asks for them. */
    void setsModes() throws Exception {
        found.put("default_mode", fresh().getMode());
        found.put("no_mode", code(() -> fresh().getMode(subject)));
        found.put("set_mode", fresh().setMode("READONLY", subject));
        found.put("mode", fresh().getMode(subject));
        found.put("read_only", code(() -> fresh().register(subject, record("{\"name\":\"id\",\"type\":\"int\"}"))));
        fresh().deleteMode(subject);
        found.put("no_mode_again", code(() -> fresh().getMode(subject)));
    }

    void deletes() throws Exception {
        found.put("not_yet", code(() -> fresh().deleteSchemaVersion(subject, "2", true)));
        found.put("deleted_version", fresh().deleteSchemaVersion(subject, "2"));
        found.put("deleted_again", code(() -> fresh().deleteSchemaVersion(subject, "2")));
        found.put("left", fresh().getAllVersions(subject));
        found.put("gone_version", code(() -> fresh().getSchemaMetadata(subject, 2)));
        found.put("kept_version", fresh().getSchemaMetadata(subject, 2, true).getVersion());
        found.put("deleted_for_good", fresh().deleteSchemaVersion(subject, "2", true));
        found.put("subject_not_yet", code(() -> fresh().deleteSubject(subject, true)));
        found.put("deleted_subject", fresh().deleteSubject(subject));
        found.put("deleted_subject_again", code(() -> fresh().deleteSubject(subject)));
        found.put("gone_subject", code(() -> fresh().getAllVersions(subject)));
        found.put("kept_subject", fresh().getAllSubjects(true).contains(subject));
        found.put("subject_for_good", fresh().deleteSubject(subject, true));
        found.put("subject_for_good_again", code(() -> fresh().deleteSubject(subject, true)));
    }
}
