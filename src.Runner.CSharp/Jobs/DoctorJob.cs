using System.Diagnostics;
using System.Runtime.InteropServices;
using Hybrid.Runner.Distribution;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>What this machine offers, what is missing, and how to mend it.</summary>
internal static class DoctorJob
{
    // A GPU does a product of 1,024² before the next is asked for; a processor without instructions for bf16 takes seconds for it.
    private static int MatrixSide => TorchLibrary.Device.type == DeviceType.CUDA ? 8192 : 512;

    /// <summary>One thing that was looked at.</summary>
    private sealed record Finding(string Name, bool Good, string Found, string Mend = "");

    /// <summary>Says what there is; false when something that is needed is missing.</summary>
    public static bool Run(DoctorCommand command)
    {
        (Finding library, bool usable) = Torch();
        List<Finding> findings =
        [
            new("hybrid", true, $"{CommandLine.version}, .NET {Environment.Version}, {RuntimeInformation.OSDescription.Trim()}, {RuntimeInformation.ProcessArchitecture}"),
            library,
        ];
        Dictionary<string, double> speed = [];
        GpuMemory? gpu = null;
        if (usable)
        {
            gpu = TorchLibrary.Device.type == DeviceType.CUDA ? GpuMemory.Read() : null;
            findings.Add(Device(gpu));
            findings.Add(new("threads", true, $"{torch.get_num_threads()} of {Environment.ProcessorCount} cores ({TorchLibrary.ThreadsVariable} changes it)"));
            speed["fp32_gflops"] = Precisions.MatrixFlops(torch.float32, MatrixSide) / 1e9;
            speed["bf16_gflops"] = Precisions.MatrixFlops(torch.bfloat16, MatrixSide) / 1e9;
            findings.Add(new(
                "matrix products",
                true,
                $"{speed["fp32_gflops"]:N0} GFLOP/s in fp32, {speed["bf16_gflops"]:N0} in bf16 ({MatrixSide}×{MatrixSide}): "
                    + (Precisions.Pays(speed["fp32_gflops"], speed["bf16_gflops"]) ? "\"precision\": \"bf16\" pays here" : "bf16 does not pay here")));
        }

        findings.AddRange(Exchanging(usable));
        findings.Add(Tokenizers());
        findings.Add(Memory());
        findings.Add(Disk());
        bool good = findings.All(finding => finding.Good);
        if (command.Json)
        {
            Json.Write(new Dictionary<string, object?>
            {
                ["ok"] = good,
                ["libtorch"] = TorchLibrary.Folder,
                ["libtorch_version"] = usable ? TorchLibrary.Version : null,
                ["gpu"] = gpu is null ? null : new { gpu.Name, TotalBytes = gpu.Total, FreeBytes = gpu.Free },
                ["device"] = usable ? TorchLibrary.Device.ToString() : null,
                ["threads"] = usable ? torch.get_num_threads() : null,
                ["speed"] = speed,
                ["findings"] = findings.Select(finding => new { finding.Name, Ok = finding.Good, finding.Found, finding.Mend }),
            });
        }
        else
        {
            foreach (Finding finding in findings)
            {
                Console.Out.WriteLine($"{(finding.Good ? "ok     " : "MISSING")}  {finding.Name,-16}  {finding.Found}");
                if (!finding.Good)
                {
                    Console.Out.WriteLine($"{"",-27}{finding.Mend}");
                }
            }
        }

        return good;
    }

    private static (Finding Finding, bool Usable) Torch()
    {
        string mend = $"build without -p:Torch=external, or set {TorchLibrary.FolderVariable} to the folder of a libtorch 2.10 (torch/lib of a Python wheel, lib of a libtorch zip)";
        try
        {
            TorchLibrary.Load();
            using torch.Tensor ones = torch.ones(3);
            using torch.Tensor sum = ones.sum();
            bool right = sum.item<float>() == 3f;
            string own = Environment.GetEnvironmentVariable(TorchLibrary.FolderVariable) is { Length: > 0 } ? $"named by {TorchLibrary.FolderVariable}" : "this build's own";
            string version = TorchLibrary.Version is { } known ? $"{known}, " : "";
            return (new("libtorch", right, $"{version}{TorchLibrary.Folder} ({own})" + (right ? "" : "; it adds up wrongly"), mend), right);
        }
        catch (InputException error)
        {
            return (new("libtorch", false, error.Message, mend), false);
        }
        catch (Exception error) when (error is TypeInitializationException or DllNotFoundException or NotSupportedException or EntryPointNotFoundException)
        {
            string said = (error.InnerException ?? error).Message.TrimEnd();
            return (new("libtorch", false, $"{TorchLibrary.Folder}: cannot be used: {said}", mend), false);
        }
    }

    private static Finding Device(GpuMemory? gpu)
    {
        if (TorchLibrary.Device.type == DeviceType.CUDA)
        {
            const double gibibyte = 1L << 30;
            string what = gpu is null ? "GPU" : $"{gpu.Name}, {gpu.Free / gibibyte:0.0} of {gpu.Total / gibibyte:0.0} GiB free";
            return new("device", true, $"{what} ({torch.cuda.device_count()} in reach); {TorchLibrary.DeviceVariable}=cpu leaves it aside");
        }

        return new("device", true, TorchLibrary.MadeForCuda ? "CPU, although this libtorch is made for CUDA: no GPU is in reach, or HYBRID_DEVICE is cpu" : "CPU (this libtorch is made for CPUs only)");
    }

    // One process needs neither, so neither is missing.
    private static IEnumerable<Finding> Exchanging(bool usable)
    {
        yield return new("several processes", true, Said(() => $"{OpenMpi.Load().Version}, for mpirun and srun --mpi=pmix"));
        if (usable && TorchLibrary.Device.type == DeviceType.CUDA)
        {
            yield return new("several GPUs", true, Said(() => $"NCCL of {Nccl.Load().Path}"));
        }

        static string Said(Func<string> find)
        {
            try
            {
                return find();
            }
            catch (InputException error)
            {
                return $"not by this machine: {error.Message}";
            }
        }
    }

    private static Finding Tokenizers()
    {
        const string name = "hf_tokenizers";
        bool there = NativeLibrary.TryLoad(name, typeof(DoctorJob).Assembly, null, out nint handle);
        if (there)
        {
            NativeLibrary.Free(handle);
        }

        return new(
            "tokenizers",
            there,
            there ? "the Hugging Face tokenizers library loads" : $"{TorchLibrary.FileName(name)} does not load",
            "build for linux-x64, or use token ids (--prompt-ids) instead of text: the tokenizers library is there for linux-x64 only");
    }

    private static Finding Memory()
    {
        double total = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / (double)(1L << 30);
        return new("memory", total >= 2, $"{total:0.0} GiB for this process", "the main job needs 4 GiB");
    }

    private static Finding Disk()
    {
        string folder = Directory.GetCurrentDirectory();
        double free = new DriveInfo(folder).AvailableFreeSpace / (double)(1L << 30);
        return new("disk", free >= 1, $"{free:0.0} GiB free in {folder}", "free some space, or give an --out elsewhere");
    }
}
