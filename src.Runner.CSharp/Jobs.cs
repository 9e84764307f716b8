namespace Hybrid.Runner;

/// <summary>Which job carries out which command.</summary>
internal static class Jobs
{
    /// <summary>Carries out a command; false when it found that something failed and has said so.</summary>
    public static bool Run(ICommand command, CancellationToken stop)
    {
        if (command is DoctorCommand doctor)
        {
            throw new InputException(doctor.ToString());
        }

        TorchLibrary.Load();
        switch (command)
        {
            case TrainCommand train:
                TrainJob.Run(train, stop);
                break;
            case EvaluateCommand evaluate:
                EvaluateJob.Run(evaluate, stop);
                break;
            default:
                throw new InputException($"{command.GetType().Name} is not carried out by this build.");
        }

        return true;
    }
}
