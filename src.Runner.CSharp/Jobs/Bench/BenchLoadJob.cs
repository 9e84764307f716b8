using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>How fast training gets its batches: read, composed and made into tensors as `train` does it, with no model to wait for.</summary>
internal static class BenchLoadJob
{
    private const int FewestPositions = 16;
    private const int Pairs = 20_000, PairsPerShard = 2048, TextVocabulary = 50_277, TextRows = 50_432, ImageCodes = 16_384;
    private const int WarmUp = 16, WantedRatio = 20;

    /// <summary>Measures for some seconds. Errors: InputException.</summary>
    public static JsonObject Run(BenchLoadCommand command, CancellationToken stop)
    {
        if (command.Tokens is { } path)
        {
            return Measure(command, path, stop);
        }

        if (command.Length < FewestPositions)
        {
            throw new ConfigurationException($"--positions is {command.Length}; the shards made for the purpose need at least {FewestPositions}.");
        }

        string folder = Directory.CreateTempSubdirectory("hybrid-bench-").FullName;
        try
        {
            Write(folder, command.Length, stop);
            return Measure(command, folder, stop);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static JsonObject Measure(BenchLoadCommand command, string path, CancellationToken stop)
    {
        torch.Device device = TorchLibrary.Device;
        Vocabulary vocabulary = VocabularyOf(path);
        TrainPlan plan = Plan(command, path, vocabulary);
        using ISequenceSource source = TokenData.Open([path], vocabulary, new PairComposer(plan, vocabulary));
        long steps = 0, tokens = 0;
        double seconds;
        int threads;
        using (BatchFeed feed = new(source, plan, plan.Config.MicroBatch, device, firstStep: 0, lastStep: long.MaxValue, command.Threads ?? 0))
        {
            threads = feed.Threads;
            for (int i = 0; i < WarmUp; i++)
            {
                BatchFeed.Release(feed.Next());
            }

            MatrixPeak.Synchronize(device);
            Stopwatch clock = Stopwatch.StartNew();
            do
            {
                stop.ThrowIfCancellationRequested();
                Batch[] batches = feed.Next();
                foreach (Batch batch in batches)
                {
                    tokens += batch.Count;
                }

                BatchFeed.Release(batches);
                steps++;
            }
            while (clock.Elapsed.TotalSeconds < command.Seconds);

            MatrixPeak.Synchronize(device);
            seconds = clock.Elapsed.TotalSeconds;
        }

        double rate = tokens / seconds, sequences = (double)steps * command.Batch;
        double peak = new[] { torch.bfloat16, torch.float32 }.Max(type => MatrixPeak.Measure(type, device));
        double flops = Architecture.FlopsPerToken(ModelConfigModule.openLm(768, 12, 12, 66_823, source.Length), source.Length);
        return new()
        {
            ["device"] = device.ToString(),
            ["threads"] = threads,
            ["seconds"] = seconds,
            ["sequences"] = source.Count,
            ["length"] = source.Length,
            ["batch"] = command.Batch,
            ["sequences_per_second"] = sequences / seconds,
            ["tokens_per_second"] = rate,
            ["bytes_per_second"] = sequences / seconds * Bytes(path) / source.Count,
            ["padding_share"] = 1 - tokens / (sequences * (source.Length - 1)),
            ["flop_per_token"] = flops,
            ["matrix_peak_flops"] = peak,
            ["model_tokens_per_second"] = peak / flops,
            ["ratio"] = rate / (peak / flops),
            ["wanted_ratio"] = WantedRatio,
        };
    }

    /// <summary>The run that a measurement imitates.</summary>
    private static TrainPlan Plan(BenchLoadCommand command, string path, Vocabulary vocabulary)
    {
        string json = $$"""
            {
              "model": { "config": "160m" },
              "vocabulary": { "textRows": {{vocabulary.TextRows}}, "imageCodes": {{vocabulary.ImageCodes}} },
              "data": { "train": [{{JsonSerializer.Serialize(path)}}], "length": {{command.Length}} },
              "optimizer": { "learningRate": 1e-3 },
              "schedule": { "steps": 1 },
              "batch": { "sequences": {{command.Batch}} }
            }
            """;
        return new(Descriptions.Training("bench load", json, []));
    }

    /// <summary>The vocabulary that shards were made for; that of the built-in pairs for ready sequences.</summary>
    private static Vocabulary VocabularyOf(string path)
    {
        if (!Directory.Exists(path) || !ShardSequences.IsShards(path))
        {
            return new(TextRows, ImageCodes);
        }

        using ShardReader reader = ShardReader.Open(path);
        return new(reader.Info.TextVocabulary, reader.Info.ImageVocabulary);
    }

    /// <summary>Bytes of token files.</summary>
    private static double Bytes(string path) => Directory.Exists(path)
        ? new DirectoryInfo(path).EnumerateFiles().Where(file => file.Extension is ".safetensors" or ".npy" or ".tar").Sum(file => (double)file.Length)
        : new FileInfo(path).Length;

    /// <summary>Shards of random pairs: square pictures that leave an eighth of the positions, captions of any length that fits.</summary>
    private static void Write(string folder, int length, CancellationToken stop)
    {
        int side = (int)Math.Sqrt((length - Sequence.marks(Form.Captioned)) * 9 / 10.0);
        int codes = side * side, longest = Sequence.captionLimit(length, codes);
        ShardInfo info = new(TextVocabulary, ImageCodes, side, side, 8 * side, "none", "", "");
        using ShardWriter writer = new(ShardManifest.Create(folder), info, PairsPerShard);
        System.Random random = new(0);
        int[] caption = new int[longest], picture = new int[codes];
        for (int i = 0; i < Pairs; i++)
        {
            stop.ThrowIfCancellationRequested();
            Span<int> words = caption.AsSpan(0, random.Next(1, longest + 1));
            Draw(words, TextVocabulary);
            Draw(picture, ImageCodes);
            writer.Add(words, picture);
        }

        writer.Finish();

        void Draw(Span<int> ids, int below)
        {
            foreach (ref int id in ids)
            {
                id = random.Next(below);
            }
        }
    }
}
