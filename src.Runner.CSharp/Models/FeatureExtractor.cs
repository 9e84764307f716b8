using System.Runtime.InteropServices;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>
/// A network that makes features of pictures: a TorchScript file, which torch's interpreter runs. Such a file is a program; the user
/// names it knowingly, and nothing else that Hybrid reads is run.
/// </summary>
internal sealed class FeatureExtractor : IDisposable
{
    private const string Layers = "layers";

    private readonly torch.jit.ScriptModule module;
    private readonly torch.jit.ScriptModule? layers;
    private readonly torch.Device device;

    private FeatureExtractor(string path, torch.jit.ScriptModule module, torch.jit.ScriptModule? layers, string entry, string sha256, torch.Device device)
    {
        (Path, this.module, this.layers, Entry, Sha256) = (path, module, layers, entry, sha256);
        this.device = device;
    }

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>What is called: forward, layers or features.</summary>
    public string Entry { get; }

    /// <summary>The file's SHA-256.</summary>
    public string Sha256 { get; }

    /// <summary>Opens a TorchScript file. Errors: InputException.</summary>
    /// <param name="path">The file.</param>
    /// <param name="entry">
    /// What is called: forward, the module; layers, the module's part of that name; features, the module with return_features = true.
    /// auto takes one of the last two where the module has such a part and takes more than the pictures, as Inception in NVIDIA's form
    /// does, and forward elsewhere.
    /// </param>
    /// <param name="resized">Whether the pictures come in the network's own size and scale: auto then takes layers, not features.</param>
    /// <param name="device">Where it computes.</param>
    public static FeatureExtractor Open(string path, string entry, bool resized, torch.Device device)
    {
        string sha256 = Files.Sha256(path);
        torch.jit.ScriptModule? module = null;
        try
        {
            module = torch.jit.load(path, device);
            module.eval();
            torch.jit.ScriptModule? layers = null;
            foreach ((string name, torch.nn.Module child) in module.named_children().ToArray())
            {
                if (name == Layers && child is torch.jit.ScriptModule part)
                {
                    layers = part;
                }
                else
                {
                    child.Dispose();
                }
            }

            bool nvidia = layers is not null && module.GetNumberOfInputs() > 1;
            string chosen = entry != "auto" ? entry : !nvidia ? "forward" : resized ? Layers : "features";
            return chosen == Layers && layers is null
                ? throw new InputException($"{path} has no part named {Layers}; leave --entry out, or take forward.")
                : new FeatureExtractor(path, module, layers, chosen, sha256, device);
        }
        catch (Exception e) when (e is not InputException)
        {
            module?.Dispose();
            throw new InputException(
                e.Message.Contains("constants.pkl", StringComparison.Ordinal)
                    ? $"{path} holds weights and no program. An extractor is a TorchScript file, as torch.jit.save writes it."
                    : $"{path} is not a TorchScript file that can be opened: {FirstWords(e)}.",
                e);
        }
        catch
        {
            module?.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Features [B, D] in single precision, in host memory, of pictures [B, 3, H, W]. The caller owns them. Errors: InputException where the
    /// network fails or gives anything else.
    /// </summary>
    public torch.Tensor Extract(torch.Tensor pictures)
    {
        using var scope = torch.NewDisposeScope();
        using var quiet = torch.no_grad();
        object? given;
        try
        {
            torch.Tensor there = pictures.to(device);
            given = Entry switch
            {
                Layers => layers!.forward([there]),
                "features" => module.forward([there, true]),
                _ => module.forward([there]),
            };
        }
        catch (Exception e) when (e is ExternalException or ArgumentException or InvalidOperationException or NotImplementedException or NullReferenceException)
        {
            throw new InputException(
                $"{Path} fails on {Shape.show(pictures.shape)} pictures: {FirstWords(e)}. If another size or scale is wanted, say so by --input-size, --resize and --scale; what is called, by --entry.",
                e);
        }

        torch.Tensor? features = given switch
        {
            torch.Tensor tensor => tensor,
            torch.Tensor[] { Length: 1 } list => list[0],
            object[] { Length: 1 } list => list[0] as torch.Tensor,
            ValueTuple<torch.Tensor> tuple => tuple.Item1,
            _ => null,
        };
        if (features is null)
        {
            throw new InputException($"{Path} gives {(given is null ? "nothing" : given.GetType().Name)} where one tensor of features is wanted.");
        }

        long batch = pictures.shape[0];
        long[] shape = features.shape;
        if (shape.Length < 2 || shape[0] != batch || shape.Skip(2).Any(length => length != 1) || !torch.is_floating_point(features))
        {
            throw new InputException(
                $"{Path} gives {features.dtype} {Shape.show(shape)} for {batch} pictures of {Shape.show(pictures.shape[1..])}; features are [{batch}, width], numbers with a point. Maps must be averaged or flattened inside the extractor.");
        }

        return features.reshape(batch, shape[1]).to(torch.float32).cpu().contiguous().clone().MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        layers?.Dispose();
        module.Dispose();
    }

    /// <summary>What torch says, without the addresses that follow.</summary>
    private static string FirstWords(Exception error)
    {
        string message = error.Message.Split("\nException raised from", 2)[0];
        int at = message.LastIndexOf("RuntimeError: ", StringComparison.Ordinal);
        string words = (at >= 0 ? message[(at + "RuntimeError: ".Length)..] : message).Trim().Split('\n')[0].TrimEnd('.', ' ');
        return words.Length > 300 ? words[..300] + "…" : words;
    }
}
