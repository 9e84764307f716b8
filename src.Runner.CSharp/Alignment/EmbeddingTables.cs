using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner.Alignment;

/// <summary>Tables of embeddings from files: .npy [rows, width] of fp16, fp32 or fp64, safetensors with one such tensor, or what align wrote.</summary>
internal static class EmbeddingTables
{
    /// <summary>The aligned table in a directory that align wrote, and the name of its tensor in the safetensors file.</summary>
    public const string NpyName = "image_embedding.npy", FileName = "image_embedding.safetensors", TensorName = "image_embeddings";

    /// <summary>A table in fp32, which the caller owns. Errors: InputException naming file, row and column of what is not a finite number.</summary>
    public static torch.Tensor Read(string path, string what)
    {
        string file = Directory.Exists(path) ? Path.Combine(path, FileName) : path;
        if (!File.Exists(file))
        {
            throw new InputException(Directory.Exists(path) ? $"{what} is not there: {path} has no {FileName}; a directory that align wrote has one." : $"{what} is not there: {path}.");
        }

        using torch.Tensor stored = file.EndsWith(".safetensors", StringComparison.OrdinalIgnoreCase) ? FromSafeTensors(file, what) : FromNpy(file);
        if (stored.dim() != 2 || stored.numel() == 0)
        {
            throw new InputException($"{file} holds {Shape.show(stored.shape)}; {what} is a table [rows, width].");
        }

        if (!torch.is_floating_point(stored))
        {
            throw new InputException($"{file} holds {stored.dtype}; {what} is of fp16, fp32 or fp64.");
        }

        torch.Tensor table = stored.to(torch.ScalarType.Float32, copy: true);
        try
        {
            RequireFinite(file, table);
            return table;
        }
        catch
        {
            table.Dispose();
            throw;
        }
    }

    /// <summary>Refuses a table with values that are not finite, naming the first.</summary>
    public static void RequireFinite(string where, torch.Tensor table)
    {
        using DisposeScope scope = torch.NewDisposeScope();
        torch.Tensor bad = table.isfinite().logical_not();
        if (!bad.any().item<bool>())
        {
            return;
        }

        long count = bad.sum().item<long>(), first = bad.reshape(-1).to_type(torch.ScalarType.Byte).argmax().item<long>(), width = table.shape[1];
        throw new InputException(
            $"{where}: row {first / width}, column {first % width} is not a finite number in fp32 ({count} in all); no cosine can be taken of that. Repair or leave out these rows.");
    }

    private static torch.Tensor FromNpy(string path)
    {
        using NpyFile file = NpyFile.Open(path);
        return file.Load();
    }

    private static torch.Tensor FromSafeTensors(string path, string what)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        string name = file.Entries.ContainsKey(TensorName) ? TensorName : file.Entries.Count == 1 ? file.Entries.Keys.Single()
            : throw new InputException($"{path} holds {file.Entries.Count} tensors and none is named {TensorName}; {what} is one table.");
        return file.Load(name);
    }
}
