function failed = run_tests()
%RUN_TESTS  Run all tests of this folder, in MATLAB by runtests, in Octave by the small runner in tests/octave.
%
%   failed = run_tests()
%
%   failed  number of failed tests; without it a failed test is an error
%
%   Example:
%      cd tests
%      run_tests
%
%   See also ANALYSIS_REF_BATCHED_IMAGES, REDUCED_RESOLUTION.

here = fileparts(mfilename('fullpath'));
searched = path;
restore = onCleanup(@() path(searched)); %#ok<NASGU>
addpath(here, fileparts(here), fullfile(fileparts(here), 'Quality_Indices'));
if exist('OCTAVE_VERSION', 'builtin')
    addpath(fullfile(here, 'octave'));
    count = run_functions(here);
else
    results = runtests(here);
    count = sum([results.Failed]);
end
if nargout
    failed = count;
elseif count > 0
    error('lemamba:tests', '%d tests failed; see above', count);
end
end
