using System.Diagnostics;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>
/// Picture–caption pairs to token shards, or tars of tokens to files of sequences. A run that was stopped goes on after its last whole
/// shard; the result does not depend on stops or on the number of threads.
/// </summary>
internal static class PrepareJob
{
    /// <summary>Carries the command out. Errors: InputException.</summary>
    public static void Run(PrepareCommand command, CancellationToken stop)
    {
        PrepareOutcome outcome;
        using (Progress progress = new())
        {
            outcome = Run(command, progress, stop);
        }

        if (command.Json)
        {
            Json.Write(outcome.ToJson());
        }
        else
        {
            Console.Out.WriteLine(outcome.ToText());
        }
    }

    /// <summary>
    /// Makes the shards that are not there yet. Errors: InputException, also where there is no pair at all; ConfigurationException where
    /// pictures have no tokenizer; OperationCanceledException when asked to stop.
    /// </summary>
    public static PrepareOutcome Run(PrepareCommand command, Progress progress, CancellationToken stop)
    {
        if (File.Exists(command.Out))
        {
            throw new InputException($"{command.Out} is a file; --out names a folder.");
        }

        PairSource[] sources = Sources(command);
        try
        {
            return sources.All(source => source.Kind == PairSourceKind.Tokens)
                ? Sequences(command, sources, progress, stop)
                : Pairs(command, sources, progress, stop);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            string whole = File.Exists(Path.Combine(command.Out, ShardManifest.FileName)) ? " Shards that were finished stand there whole, and the same command goes on after them." : "";
            throw new InputException($"{command.Out} cannot be written: {error.Message.TrimEnd('.')}.{whole}", error);
        }
    }

    private static PrepareOutcome Pairs(PrepareCommand command, PairSource[] sources, Progress progress, CancellationToken stop)
    {
        if (command.ImageTokenizer is not { } imagePath || command.ImageSize is not { } size)
        {
            throw new ConfigurationException($"{sources[0].Path} holds pictures: hybrid prepare needs --image-tokenizer PATH and --image-size N for them.");
        }

        if (sources.FirstOrDefault(source => source.Kind == PairSourceKind.Tokens) is { } tokens)
        {
            throw new InputException($"{tokens.Path} holds ready sequences of tokens, other inputs hold pictures; prepare them into folders of their own.");
        }

        using HuggingFaceTokenizer text = OpenText(command);
        using PictureTokenizer images = ImageTokenizers.Open(imagePath, TokenizerOptions.Default.With(command.Ema, command.HalfPrecision));
        if (size % images.Stride != 0)
        {
            throw new InputException($"--image-size {size} is not a multiple of {images.Stride}, the pixels of this tokenizer's codes.");
        }

        int grid = size / images.Stride;
        ShardInfo info = new(
            text.VocabularySize, images.Codes, grid, grid, size, PrepareRules.Crop(command), text.Sha256, ImageTokenizers.Hash(imagePath, command.Ema));
        PrepareRules rules = new(command, text, info);
        return InFolder(command, rules.Settings(), sources, info, folder =>
        {
            folder.Beside(Checkpoint.Tokenizer, file => AtomicFile.WriteBytes(file, text.Content.ToArray()));
            folder.Beside(ImageTokenizers.FileName, file => ImageTokenizers.Save(images, file, grid, grid));
            Make(command, info, folder, sources, rules, images, progress, stop);
        });
    }

    private static HuggingFaceTokenizer OpenText(PrepareCommand command)
    {
        HuggingFaceTokenizer text = HuggingFaceTokenizer.Open(command.TextTokenizer);
        if (text.Warning is { } warning)
        {
            Terminal.Warn(warning);
        }

        return text;
    }

    private static PrepareOutcome Sequences(PrepareCommand command, PairSource[] sources, Progress progress, CancellationToken stop)
    {
        using HuggingFaceTokenizer text = OpenText(command);
        return InFolder(command, PrepareSequences.Settings(), sources, null, folder =>
        {
            folder.Beside(Checkpoint.Tokenizer, file => AtomicFile.WriteBytes(file, text.Content.ToArray()));
            using Stage stage = progress.Stage("prepare", 0);
            for (int i = 0; i < sources.Length; i++)
            {
                PrepareSequences.Make(folder, sources[i], i, command.Strict, stage, stop);
            }
        });
    }

    /// <summary>Opens the folder, fills it and counts what is in it; a folder in which nothing came to be is taken back.</summary>
    private static PrepareOutcome InFolder(PrepareCommand command, JsonObject settings, PairSource[] sources, ShardInfo? info, Action<PrepareFolder> fill)
    {
        using PrepareFolder folder = PrepareFolder.Open(command.Out, settings, sources);
        PrepareOutcome outcome = new(folder, info);
        Stopwatch watch = Stopwatch.StartNew();
        try
        {
            int done = sources.Count(source => folder.Last(source) is { Made.Ended: true });
            if (done > 0)
            {
                Terminal.Say($"{done} of {sources.Length} sources are done already");
            }

            fill(folder);
            outcome.Count(folder, watch.Elapsed);
            return outcome.Pairs > 0
                ? outcome
                : throw new InputException($"no {(info is null ? "sequence" : "picture with its caption")} was found in {string.Join(", ", command.Input)}.{outcome.DroppedText()}");
        }
        catch (InputException) when (folder.Manifest.Entries.All(entry => entry.Count == 0))
        {
            // What stands there belongs to no pair, and would refuse the call with a better --input.
            folder.Abandon();
            throw;
        }
    }

    private static void Make(
        PrepareCommand command, ShardInfo info, PrepareFolder folder, PairSource[] sources, PrepareRules rules, PictureTokenizer images,
        Progress progress, CancellationToken stop)
    {
        int threads = command.Workers ?? Environment.ProcessorCount;
        PairReading[] readings = [.. sources.Select(source => new PairReading { AllCaptions = command.AllCaptions })];
        double[] weights = [.. sources.Select(source => Math.Max(1.0, source.Stamp().Bytes))];
        double all = weights.Sum(), passed = 0;
        long pairs = folder.Manifest.Entries.Sum(entry => entry.Count), textTokens = 0, before = pairs;
        using Stage stage = progress.Stage("prepare", 0, pairs);
        for (int i = 0; i < sources.Length; i++)
        {
            PairSource source = sources[i];
            PairReading reading = readings[i];
            ShardEntry? last = folder.Last(source);
            if (last is not { Made.Ended: true })
            {
                // The shard's number follows from the source's place among all, so that a resumed run names it the same.
                using PrepareShards shards = new(folder, info, source, $"shard-{i:00000}", images, command);
                IEnumerable<PairEvent> events = Skip(source.Read(reading), last?.Made?.Read ?? 0, source);
                using PrepareAhead ahead = new(events, rules.Prepare, threads, 2 * PrepareShards.Together(info.ImageSize), stop);
                foreach (Prepared next in ahead.Results())
                {
                    stop.ThrowIfCancellationRequested();
                    shards.Take(next);
                    pairs += next.Captions.Count;
                    textTokens += next.Captions.Sum(caption => (long)caption.Length);
                    double done = (passed + (reading.Fraction * weights[i])) / all;
                    stage.Expect(Math.Max(pairs, (long)(pairs / Math.Max(done, 1e-9))));
                    stage.Report(pairs, new Metrics { Tokens = textTokens + ((pairs - before) * info.Codes), Note = Path.GetFileName(source.Path) });
                }

                shards.End();
            }

            passed += weights[i];
        }

        stage.Expect(pairs);
        stage.Report(pairs, new Metrics { Tokens = textTokens + ((pairs - before) * info.Codes) });
    }

    /// <summary>
    /// What a source says after the part that stands in shards; where it cannot be read, or not to its end, that is the last it says.
    /// Errors: InputException where it has become shorter.
    /// </summary>
    private static IEnumerable<PairEvent> Skip(IEnumerable<PairEvent> events, long count, PairSource source)
    {
        long at = 0;
        using IEnumerator<PairEvent> reader = events.GetEnumerator();
        for (bool more = true; more; at++)
        {
            PairEvent next;
            try
            {
                more = reader.MoveNext();
                next = more ? reader.Current : default;
            }
            catch (InputException error)
            {
                (more, next) = (false, PairEvent.Dropped(DropReason.BadSource, "", error.Message));
            }

            if (at >= count && (more || next.Drop is not null))
            {
                yield return next;
            }
            else if (!more && at < count && next.Drop is null)
            {
                throw new InputException($"{source.Path} has {at:N0} records and {count:N0} of it stand in shards already: it was changed. Choose another --out.");
            }
        }
    }

    private static PairSource[] Sources(PrepareCommand command)
    {
        string[] paths = [.. command.Input.SelectMany(PairInputs.Expand)];
        PairSource[] sources = [.. PairInputs.WithoutCompanions(paths).SelectMany(path => PairSource.Open(path, command.ImageRoot))];
        return sources.GroupBy(source => source.Path).FirstOrDefault(group => group.Count() > 1) is { } twice
            ? throw new InputException($"--input names {twice.Key} twice.")
            : sources;
    }
}
