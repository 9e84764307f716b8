using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Hybrid.Runner.Formats;

/// <summary>The rows of an open_lm tar, in memory.</summary>
internal sealed class TarSequences : ISequenceFile
{
    internal static readonly string[] Extensions = ["txt", "json", "json.gz"];
    private readonly List<int[]> rows = [];

    private TarSequences(string path) => Path = path;

    public string Path { get; }

    public long Count => rows.Count;

    public static TarSequences Open(string path, int vocabularySize)
    {
        TarSequences file = new(path);
        foreach (TarMember member in Members(path, reason => throw new InputException($"{path}: {reason}.")))
        {
            file.rows.Add(member.Kind == TarKind.File
                ? Parse(path, member.Name, member.Bytes, vocabularySize)
                : throw new InputException($"{path}: \"{FileErrors.Show(member.Name)}\" is {(member.Kind == TarKind.Link ? "a link" : $"a member of {member.Length:N0} bytes, too many for a list of ids")}."));
        }

        return file.rows.Count > 0 ? file : throw new InputException($"{path} has no member with the extension txt, json or json.gz.");
    }

    /// <summary>The members of a tar that should be lists of ids.</summary>
    public static IEnumerable<TarMember> Members(string path, Action<string> damaged, PairReading? reading = null)
    {
        bool Wanted(string name) => Extensions.Contains(WebDataset.Split(name).Extension);
        return TarMembers.Read(path, name => Wanted(name) ? SampleGroups.MostRecord : -1, damaged, reading)
            .Where(member => member.Kind != TarKind.Link || Wanted(member.Name));
    }

    public int[] Row(long index) => rows[checked((int)index)];

    public void Dispose()
    {
    }

    /// <summary>The ids of a member. Errors: InputException.</summary>
    public static int[] Parse(string path, string name, byte[] bytes, int vocabularySize)
    {
        string where = $"member \"{FileErrors.Show(name)}\"";
        if (name.EndsWith(".txt", StringComparison.OrdinalIgnoreCase))
        {
            return new PythonList(path, where, Encoding.UTF8.GetString(bytes), vocabularySize).Read();
        }

        try
        {
            using JsonDocument document = JsonDocument.Parse(name.EndsWith(".gz", StringComparison.OrdinalIgnoreCase) ? Inflate(path, where, bytes) : bytes);
            if (document.RootElement.ValueKind != JsonValueKind.Array)
            {
                throw new InputException($"{path}: {where} is not a JSON list.");
            }

            int[] ids = new int[document.RootElement.GetArrayLength()];
            int i = 0;
            foreach (JsonElement element in document.RootElement.EnumerateArray())
            {
                ids[i++] = element.ValueKind != JsonValueKind.Number ? 0
                    : element.TryGetInt64(out long id) ? SequenceFiles.Id(id, vocabularySize, path, where)
                    : throw new InputException($"{path}: {where} has {FileErrors.Show(element.GetRawText())} where an id should be.");
            }

            return ids;
        }
        catch (JsonException e)
        {
            throw new InputException($"{path}: {where} is not a JSON list: {e.Message}", e);
        }
    }

    private static byte[] Inflate(string path, string where, byte[] bytes)
    {
        // Lists of ids shrink to about a quarter; a member that grows a hundredfold is no list of ids.
        long most = (100L * bytes.Length) + 4096;
        try
        {
            return Unpacking.Inflate(bytes, most);
        }
        catch (DropException e)
        {
            throw new InputException($"{path}: {where} is not a list of ids: {e.Message}", e);
        }
    }

    /// <summary>A Python list as str() writes it: numbers and quoted texts.</summary>
    private sealed class PythonList(string path, string where, string text, int vocabularySize)
    {
        private int at;

        public int[] Read()
        {
            List<int> ids = [];
            Expect('[');
            if (!Accept(']'))
            {
                do
                {
                    ids.Add(Element());
                }
                while (Accept(',') && !Next(']'));
                Expect(']');
            }

            Blank();
            return at == text.Length ? [.. ids] : throw Wrong("something follows the list");
        }

        private int Element()
        {
            Blank();
            int start = at;
            if (at < text.Length && text[at] is '\'' or '"')
            {
                char quote = text[at++];
                while (at < text.Length && text[at] != quote)
                {
                    at += text[at] == '\\' ? 2 : 1;
                }

                return ++at <= text.Length ? 0 : throw Wrong("a text in quotes has no end");
            }

            while (at < text.Length && (char.IsAsciiDigit(text[at]) || text[at] == '-'))
            {
                at++;
            }

            return long.TryParse(text.AsSpan(start, at - start), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long id)
                ? SequenceFiles.Id(id, vocabularySize, path, where)
                : throw Wrong("an id or a text in quotes is missing");
        }

        private bool Next(char wanted)
        {
            Blank();
            return at < text.Length && text[at] == wanted;
        }

        private bool Accept(char wanted)
        {
            bool found = Next(wanted);
            at += found ? 1 : 0;
            return found;
        }

        private void Expect(char wanted)
        {
            if (!Accept(wanted))
            {
                throw Wrong($"'{wanted}' is missing");
            }
        }

        private void Blank()
        {
            while (at < text.Length && char.IsWhiteSpace(text[at]))
            {
                at++;
            }
        }

        private InputException Wrong(string what) => new($"{path}: {where} is not a Python list of ids: {what} (character {at}).");
    }
}
