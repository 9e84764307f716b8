using System.Security.Cryptography;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner.Alignment;

/// <summary>What is aligned: pairs, the text table, and the image table to begin with. Dispose it to release all of it.</summary>
internal sealed class AlignmentData : IDisposable
{
    private AlignmentData(ITokenPairs pairs, torch.Tensor texts, torch.Tensor initial, string start, HuggingFaceTokenizer? tokenizer, SortedDictionary<string, string> hashes) =>
        (Pairs, Texts, Initial, Start, Tokenizer, Hashes) = (pairs, texts, initial, start, tokenizer, hashes);

    public ITokenPairs Pairs { get; }

    /// <summary>[text rows, width], fp32.</summary>
    public torch.Tensor Texts { get; }

    /// <summary>[codes, width], fp32.</summary>
    public torch.Tensor Initial { get; }

    /// <summary>Where the image table begins, in words.</summary>
    public string Start { get; }

    public HuggingFaceTokenizer? Tokenizer { get; }

    /// <summary>SHA-256 of what went in.</summary>
    public IReadOnlyDictionary<string, string> Hashes { get; }

    /// <summary>Opens what a command names. Errors: ConfigurationException where options do not go together; InputException.</summary>
    public static AlignmentData Open(AlignCommand command)
    {
        using Parts parts = new();
        HuggingFaceTokenizer? tokenizer = command.Model is null ? Given(command, parts) : OfModel(command, command.Model, parts);
        if (command.Words.Count > 0 && tokenizer is null)
        {
            throw new ConfigurationException("--codes-of-word needs a tokenizer to read the captions with; give one with --tokenizer.");
        }

        return parts.Taken(tokenizer);
    }

    public void Dispose()
    {
        Pairs.Dispose();
        Texts.Dispose();
        Initial.Dispose();
        Tokenizer?.Dispose();
    }

    private static HuggingFaceTokenizer? Given(AlignCommand command, Parts parts)
    {
        if (command.Tokens is not null)
        {
            throw new ConfigurationException("--tokens belongs to --model; with --codes the captions are --text-ids.");
        }

        parts.Texts = EmbeddingTables.Read(command.TextEmbedding!, "the text table");
        parts.Hashes["text_embedding"] = Files.Sha256(command.TextEmbedding!);
        int codes = command.ImageCodes ?? 0;
        if (command.Initial is not null)
        {
            codes = parts.Begin(command.Initial, command.ImageCodes);
        }

        GivenPairs pairs = new(command.Codes!, command.TextIds!, (int)parts.Texts.shape[0], codes);
        parts.Pairs = pairs;
        parts.Hashes["codes"] = Files.Sha256(command.Codes!);
        parts.Hashes["text_ids"] = Files.Sha256(command.TextIds!);
        parts.BeginAtRandom(pairs.ImageCodes, command.Seed);
        return command.Tokenizer is null ? null : HuggingFaceTokenizer.Open(command.Tokenizer);
    }

    private static HuggingFaceTokenizer? OfModel(AlignCommand command, ModelPath path, Parts parts)
    {
        string tokens = command.Tokens ?? throw new ConfigurationException("--model needs --tokens as well: the pairs to align on.");

        if (path.TextRows is not null && command.ImageCodes is null)
        {
            throw new ConfigurationException("--text-rows is given without --image-codes: they go together.");
        }

        // Without --text-rows, --image-codes says how many rows are to come, not what the table holds.
        using ModelFile file = ModelFiles.Open(path.Path, path.Config, path.TextRows, path.TextRows is null ? null : command.ImageCodes);
        Vocabulary layout = file.Vocabulary;
        bool drawn = layout.ImageCodes > 0;
        if (drawn && command.ImageCodes is { } asked && asked != layout.ImageCodes)
        {
            throw new ConfigurationException($"--image-codes: is {asked}, but {path.Path} has {layout.ImageCodes} image rows.");
        }

        int codes = drawn ? layout.ImageCodes : command.ImageCodes ?? TokenPairs.CodesOf(tokens);
        if (codes == 0)
        {
            throw new ConfigurationException($"{path.Path} has no image rows, and {tokens} does not say how many codes there are; give --image-codes.");
        }

        using (DisposeScope scope = torch.NewDisposeScope())
        {
            torch.Tensor table = file.Load("tok_embeddings.weight");
            parts.Texts = table.narrow(0, 0, layout.TextRows).to(torch.ScalarType.Float32, copy: true).MoveToOuterDisposeScope();
            EmbeddingTables.RequireFinite($"{path.Path}, the text rows of its table", parts.Texts);
            if (command.Initial is not null)
            {
                parts.Begin(command.Initial, codes);
            }
            else if (drawn)
            {
                parts.Initial = table.narrow(0, layout.FirstCode, codes).to(torch.ScalarType.Float32, copy: true).MoveToOuterDisposeScope();
                parts.Start = "the model's own image rows";
                EmbeddingTables.RequireFinite($"{path.Path}, the image rows of its table", parts.Initial);
            }
        }

        parts.BeginAtRandom(codes, command.Seed);
        parts.Hashes["text_embedding"] = HashOf(parts.Texts);
        string manifest = Path.Combine(tokens, ShardManifest.FileName);
        if (File.Exists(manifest))
        {
            parts.Hashes["tokens"] = Files.Sha256(manifest);
        }
        else if (File.Exists(tokens))
        {
            parts.Hashes["tokens"] = Files.Sha256(tokens);
        }

        parts.Pairs = TokenPairs.Open(tokens, new Vocabulary(layout.TextRows, codes));
        return (command.Tokenizer ?? file.TokenizerPath) is { } words ? HuggingFaceTokenizer.Open(words) : null;
    }

    private static unsafe string HashOf(torch.Tensor table)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (long row = 0; row < table.shape[0]; row++)
        {
            using torch.Tensor one = table[row];
            hash.AppendData(System.Runtime.InteropServices.MemoryMarshal.AsBytes<float>(one.data<float>().ToArray()));
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>What is open so far; it is released unless it is taken.</summary>
    private sealed class Parts : IDisposable
    {
        public ITokenPairs? Pairs { get; set; }

        public torch.Tensor? Texts { get; set; }

        public torch.Tensor? Initial { get; set; }

        public string Start { get; set; } = "";

        public SortedDictionary<string, string> Hashes { get; } = new(StringComparer.Ordinal);

        /// <summary>Begins with a table from a file, whose rows it returns.</summary>
        public int Begin(string path, int? codes)
        {
            Initial = EmbeddingTables.Read(path, "the image table");
            Start = path;
            string file = Directory.Exists(path) ? Path.Combine(path, EmbeddingTables.FileName) : path;
            Hashes["initial"] = Files.Sha256(file);
            long rows = Initial.shape[0], width = Initial.shape[1];
            if (width != Texts!.shape[1])
            {
                throw new InputException($"{path} holds embeddings of width {width} and the text table of width {Texts.shape[1]}; cosines between them need one width.");
            }

            return codes is { } wanted && wanted != rows
                ? throw new InputException($"{path} has {rows} rows and there are {wanted} image codes; it must have one row for each.")
                : (int)rows;
        }

        public void BeginAtRandom(int codes, long seed)
        {
            if (Initial is null)
            {
                Initial = AlignmentTables.Initial(codes, (int)Texts!.shape[1], seed);
                Start = $"random rows, seed {seed}";
            }
        }

        public AlignmentData Taken(HuggingFaceTokenizer? tokenizer)
        {
            AlignmentData data = new(Pairs!, Texts!, Initial!, Start, tokenizer, Hashes);
            (Pairs, Texts, Initial) = (null, null, null);
            return data;
        }

        public void Dispose()
        {
            Pairs?.Dispose();
            Texts?.Dispose();
            Initial?.Dispose();
        }
    }
}
