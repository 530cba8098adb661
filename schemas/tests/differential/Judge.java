import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.function.BooleanSupplier;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;
import org.apache.avro.SchemaCompatibility.SchemaCompatibilityType;
import org.apache.avro.SchemaValidationException;
import org.apache.avro.SchemaValidationStrategy;
import org.apache.avro.SchemaValidator;
import org.apache.avro.SchemaValidatorBuilder;

/**
 * Reads one history a line, schemas separated by tabs, oldest first, and answers with one line.
 *
 * <p>First, separated by spaces, what the checker and then the resolver that reads data say of every pair, reader before
 * writer, without a schema and itself: "y", "n", or "x" where it throws. Behind a tab, whether the newest may follow the
 * others: backward, backward transitive, forward, forward transitive, full, full transitive.
 */
public final class Judge {
    public static void main(String[] arguments) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        for (String line; (line = lines.readLine()) != null;) {
            try {
                out.println(judged(line));
            } catch (RuntimeException error) {
                out.println("refused: " + error.getMessage().replaceAll("\\s+", " "));
            }
        }
        out.flush();
    }

    private static String judged(String line) {
        var history = new ArrayList<Schema>();
        for (String text : line.split("\t")) {
            history.add(new Schema.Parser().parse(text));
        }
        var pairs = new StringBuilder();
        for (Schema reader : history) {
            for (Schema writer : history) {
                if (reader != writer) {
                    pairs.append(' ').append(verdict(() -> isRead(reader, writer)));
                    pairs.append(verdict(() -> isResolved(reader, writer)));
                }
            }
        }
        return pairs.substring(1) + "\t" + modes(history);
    }

    private static String modes(List<Schema> history) {
        var newest = history.get(history.size() - 1);
        var earlier = new ArrayList<>(history.subList(0, history.size() - 1));
        Collections.reverse(earlier); // this library wants the most recent first
        SchemaValidationStrategy backward = (now, before) -> require(isRead(now, before), now, before);
        SchemaValidationStrategy forward = (now, before) -> require(isRead(before, now), now, before);
        SchemaValidationStrategy full =
            (now, before) -> require(isRead(now, before) && isRead(before, now), now, before);
        var answers = new StringBuilder();
        for (var strategy : List.of(backward, forward, full)) {
            answers.append(follows(new SchemaValidatorBuilder().strategy(strategy).validateLatest(), newest, earlier));
            answers.append(follows(new SchemaValidatorBuilder().strategy(strategy).validateAll(), newest, earlier));
        }
        return answers.toString();
    }

    private static char follows(SchemaValidator validator, Schema newest, List<Schema> earlier) {
        return verdict(() -> {
            try {
                validator.validate(newest, earlier);
                return true;
            } catch (SchemaValidationException error) {
                return false;
            }
        });
    }

    private static boolean isRead(Schema reader, Schema writer) {
        var found = SchemaCompatibility.checkReaderWriterCompatibility(reader, writer);
        return found.getType() == SchemaCompatibilityType.COMPATIBLE;
    }

    private static boolean isResolved(Schema reader, Schema writer) {
        try {
            new SchemaValidatorBuilder().canReadStrategy().validateLatest().validate(reader, List.of(writer));
            return true;
        } catch (SchemaValidationException error) {
            return false;
        }
    }

    private static void require(boolean compatible, Schema now, Schema before) throws SchemaValidationException {
        if (!compatible) {
            throw new SchemaValidationException(now, before);
        }
    }

    private static char verdict(BooleanSupplier asked) {
        try {
            return asked.getAsBoolean() ? 'y' : 'n';
        } catch (RuntimeException | StackOverflowError error) { // a record that holds itself has no end for it
            return 'x';
        }
    }
}
